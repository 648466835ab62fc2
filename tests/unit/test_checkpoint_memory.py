"""Memory of a conversion does not grow with the model."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from checkpoint_writers import tiny_critic, write_checkpoint

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"
IMPORTS = (
    "import criticflow.checkpoint.convert, criticflow.models.value_head, accelerate; "
    "import transformers.models.qwen3.modeling_qwen3; "
    "print(open('/proc/self/status').read())"
)


def anonymous_mb(status: str) -> float:
    """Private memory, of /proc/PID/status; 0 for a process that has ended."""
    lines = [line.split() for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0][1]) / 1024 if lines else 0.0


@pytest.mark.slow
def test_a_model_of_twice_the_bound_is_converted_within_it(tmp_path):
    """A tensor of 1.2 GB: at most 600 MB above what the imports take."""
    model = tiny_critic()
    state = model.state_dict()
    model.config.vocab_size, model.config.hidden_size = 12_500_000, 24
    state["model.embed_tokens.weight"] = torch.full((12_500_000, 24), 0.5)
    model.state_dict = lambda: state
    source = write_checkpoint(tmp_path / "in", model, 4)
    size = sum(path.stat().st_size for path in source.glob("*.pt"))
    imports = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    base = anonymous_mb(imports.stdout)
    assert base > 100

    process = subprocess.Popen(
        [
            *(sys.executable, str(SCRIPTS / "convert_critic_to_hf.py"), "--no-reload"),
            *("--local_dir", str(source), "--target_dir", str(tmp_path / "out")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak, status = 0.0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        peak = max(peak, anonymous_mb(status.read_text()))
        time.sleep(0.005)
    assert process.returncode == 0
    assert (tmp_path / "out/model.safetensors").stat().st_size > 0.99 * size > 1.1e9
    assert base < peak < base + 600
