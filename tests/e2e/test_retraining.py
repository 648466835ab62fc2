"""Code that changes, and ranks, in a study on the real stack: what is trained, and what is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from small_study import PROJECT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS = 2
SMALL = {
    "models": {"tiny": {"build": {"sft": {"steps": 60}}}},
    "tasks": {"countdown-mini": {"split": {"val": 16, "test": 16}}},
    "probe": {"n": 2, "prompts": 16},
    "runs": {
        "cold": {"reward_mask": {"ratio": 0.5}},
        "constant": None,
        "warm-frozen": None,
        "constant-m50": None,
        "warm-frozen-m50": None,
    },
    "contrasts": [],
    "train": {
        "steps": STEPS,
        "batch_size": 16,
        "mini_batch_size": 8,
        "micro_batch_size": 4,
        "critic_warmup": 0,
        "save_every": 1,
    },
}
RUN = Path("results/runs/cold/seed0")
CHECKPOINTS = Path("results/checkpoints/cold")


class Study:
    """A copy of the project, and a directory in which its one run is trained and converted."""

    def __init__(self, root: Path) -> None:
        self.project, self.workdir = root / "project", root / "work"
        self.workdir.mkdir()
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for folder in ("workflow", "config"):
            shutil.copytree(PROJECT / folder, self.project / folder, ignore=ignore)

    def make(
        self, *arguments: str, ok: bool = True, seconds: float | None = None, **resources: Any
    ) -> str:
        """Train and convert; ``seconds``: what Slurm would leave the job."""
        settings = self.workdir / "small.yaml"
        settings.write_text(yaml.safe_dump(SMALL | {"resources": resources}), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "all",
            str(RUN / "actor"),
            *arguments,
        ]
        command += ["--directory", str(self.workdir), "--configfile", str(settings)]
        command += ["--snakefile", str(self.project / "workflow" / "Snakefile")]
        env = os.environ | {"PYTHONPATH": str(self.project / "workflow" / "scripts")}
        if seconds is not None:
            env["SLURM_JOB_END_TIME"] = str(time.time() + seconds)
        done = subprocess.run(
            command,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout[-6000:]
        return done.stdout

    def edit(self, old: str, new: str) -> None:
        path = self.project / "workflow/scripts/criticflow/verl_plugin/reward_mask.py"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def record(self) -> dict[str, Any]:
        return json.loads((self.workdir / RUN / "provenance.json").read_text())

    def weights(self) -> dict[str, Any]:
        return load_file(self.workdir / RUN / "actor" / "model.safetensors")

    def asides(self) -> list[Path]:
        return list((self.workdir / CHECKPOINTS).glob("seed0.replaced-*"))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    made = Study(tmp_path_factory.mktemp("retraining"))
    assert "starting verl from step 0" in made.make()
    return made


def test_an_edited_comment_trains_nothing_and_edited_code_trains_afresh(study):
    first, weights = study.record(), study.weights()
    study.edit('"""', '"""Edited. ')
    assert "Nothing to be done" in study.make()
    terminal = study.make("--forcerun", "train_run")
    assert "Train cold, seed 0" in terminal and "starting verl" not in terminal
    assert study.record() == first
    assert study.asides() == []

    study.edit("np.where(masked, 0.0, kept)", "np.where(~masked, 0.0, kept)")
    terminal = study.make()
    assert "starting verl from step 0" in terminal
    assert "code verl_plugin/reward_mask.py differs" in terminal
    second = study.record()
    assert second["code"] != first["code"]
    assert [one["steps"] for one in second["attempts"]] == [{"from": 0, "to": STEPS}]
    now = study.weights()
    assert any(not now[name].equal(weights[name]) for name in weights)
    (aside,) = study.asides()
    assert (aside / f"global_step_{STEPS}" / "actor").is_dir()


def test_a_half_done_training_goes_on_with_fewer_ranks_and_another_cache(study):
    shutil.rmtree(study.workdir / CHECKPOINTS)
    shutil.rmtree(study.workdir / RUN)
    assert "saved and stopped" in study.make(ok=False, seconds=60)
    terminal = study.make(cpu_ranks=1, kv_cache_gb=2)
    assert "made by 2 ranks, and is now one of 1" in terminal
    assert f"starting verl from step 1 of {STEPS}" in terminal
    first, second = study.record()["attempts"]
    assert (first["steps"], second["steps"]) == ({"from": 0, "to": 1}, {"from": 1, "to": STEPS})
    assert second["changed"] == [
        "resources cpu_ranks: 2 -> 1",
        "resources kv_cache_gb: 1 -> 2",
    ]
    assert study.asides() == []
