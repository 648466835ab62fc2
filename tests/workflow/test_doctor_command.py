"""``criticflow doctor`` on the machine that runs the tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from snake import PROJECT

from criticflow.runtime.gpus import installed_gpus


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "criticflow", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def slurm_answers() -> bool:
    """Whether trainings may run on other machines than this one, whose GPUs count then."""
    return (
        bool(shutil.which("sinfo"))
        and not subprocess.run(["sinfo"], capture_output=True).returncode
    )


def test_a_machine_that_runs_the_tests_can_run_the_default(tmp_path):
    done = doctor("--directory", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    looked_at = {line[9:].split(":")[0] for line in done.stdout.splitlines() if line[0] != " "}
    assert looked_at >= {"torch", "GPUs", "attention", "compiler", "CPUs", "memory", "ports"}
    assert looked_at >= {"shared memory", "results", "libraries", "Slurm"}


@pytest.mark.skipif(bool(installed_gpus()), reason="for machines without a GPU")
def test_what_is_wrong_has_a_line_that_mends_it(tmp_path):
    experiment = PROJECT / "config/experiments/qwen3-0.6b-gsm8k-ppo.yaml"
    done = doctor("--directory", str(tmp_path), "--configfile", str(experiment))
    assert done.returncode == 1
    assert re.search(r"wrong +torch: .*\n +-> make setup DEVICE=gpu", done.stdout)
    lines = done.stdout.splitlines()
    bad = [number for number, line in enumerate(lines) if line.startswith(("wrong", "warning"))]
    assert all(lines[number + 1].lstrip().startswith("->") for number in bad)
    assert re.fullmatch(r"\d+ things? (is|are) wrong\.\n", done.stderr)


@pytest.mark.skipif(bool(installed_gpus()), reason="for machines without a GPU")
@pytest.mark.skipif(slurm_answers(), reason="for machines without Slurm")
def test_the_training_that_takes_most_is_looked_for(tmp_path):
    experiment = PROJECT / "config/experiments/qwen3-0.6b-gsm8k-ppo.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("runs: {warm-frozen: {resources: {gpu: 8}}}\n")
    done = doctor("--directory", str(tmp_path), "--configfile", str(experiment), str(own))
    assert "GPUs: 0 here, a training takes 8" in done.stdout
