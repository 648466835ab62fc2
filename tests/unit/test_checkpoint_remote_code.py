"""A model whose code is in the checkpoint: run with --trust-remote-code, and refused without."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoint_writers import tiny_actor, tiny_critic, write_checkpoint
from forking_python import forking_python

TOKENS = torch.tensor([[3, 14, 15]])
LIBRARIES = ("criticflow.commands.convert", "transformers.models.qwen3.modeling_qwen3")
SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"
CONFIGURATION = """
from transformers import Qwen3Config

class OwnConfig(Qwen3Config):
    model_type = "own"
"""
MODELING = {
    "critic": """
from torch import nn
from transformers import Qwen3Model, Qwen3PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput
from .configuration_own import OwnConfig

class OwnForTokenClassification(Qwen3PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = Qwen3Model(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, **kwargs):
        hidden = self.model(input_ids, **kwargs).last_hidden_state
        return TokenClassifierOutput(logits=2 * self.score(hidden))
""",
    "actor": """
from transformers import Qwen3ForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output
""",
}
LOAD = """
import sys, torch, transformers
model = transformers.{auto}.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
print(type(model).__name__, model(torch.tensor([[3, 14, 15]])).logits[0, 2, 0].item())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    """Where transformers copies the code that it trusts."""
    return str(tmp_path_factory.mktemp("cache"))


def program(script: str, *arguments: object, cache: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for transformers imports the code that it trusts."""
    python = forking_python(*LIBRARIES, variables=(("HF_HOME", cache),))
    return subprocess.run(
        [python, script, *map(str, arguments)],
        env={**os.environ, "HF_HOME": cache},
        capture_output=True,
        text=True,
    )


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("kind", "family"), [("critic", "TokenClassification"), ("actor", "CausalLM")]
)
def test_code_of_the_checkpoint_needs_the_flag(tmp_path, cache, kind, family):
    model = tiny_critic() if kind == "critic" else tiny_actor()
    source, target = write_checkpoint(tmp_path / "in", model, 2), tmp_path / "out"
    code = source / "huggingface"
    config = json.loads((code / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            f"AutoModelFor{family}": f"modeling_own.OwnFor{family}",
        },
    }
    (code / "config.json").write_text(json.dumps(config))
    (code / "configuration_own.py").write_text(CONFIGURATION)
    (code / "modeling_own.py").write_text(MODELING[kind])
    arguments = ["--local_dir", source, "--target_dir", target]
    script = str(SCRIPTS / f"convert_{kind}_to_hf.py")

    refused = program(script, *arguments, cache=cache)
    assert refused.returncode == 2 and not target.exists()
    assert "type own has code of its own: add --trust-remote-code" in refused.stderr

    done = program(script, *arguments, "--trust-remote-code", cache=cache)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((target / "conversion.json").read_text())
    assert manifest["architecture"] == f"OwnFor{family}" and manifest["verified"]["reload"]
    written = load_file(target / "model.safetensors")
    assert all((written[name] == value).all() for name, value in model.state_dict().items())

    load = tmp_path / "load.py"
    load.write_text(LOAD.format(auto=f"AutoModelFor{family}"))
    loaded = program(str(load), target, cache=cache)
    assert loaded.returncode == 0, loaded.stderr
    name, value = loaded.stdout.split()
    expected = 2 * model(TOKENS).logits[0, 2, 0].item()
    assert name == f"OwnFor{family}" and float(value) == pytest.approx(expected, rel=1e-4)
