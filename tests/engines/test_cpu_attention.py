"""A rollout on the CPU ends, however long its sequences are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from criticflow.config import Resources
from criticflow.training.environment import environment

SCRIPT = Path(__file__).parent / "attention_step.py"
LENGTHS = ["30", "350", "4000"]


def test_attention_over_a_long_sequence_returns_in_a_trainings_environment(tmp_path):
    env = environment(Resources(), tmp_path / "metrics.jsonl")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *LENGTHS],
        env=env | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == LENGTHS, done.stderr
