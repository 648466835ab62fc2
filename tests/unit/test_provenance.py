"""What a run's record says: written when training happens, and by whom it was accepted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from criticflow.checkpoint.retention import TRACKER
from criticflow.commands import accept
from criticflow.config import load_config
from criticflow.errors import UserError
from criticflow.training import job, provenance
from criticflow.training.log import next_attempt
from criticflow.verl_plugin.stopping import STOP

STEPS = 4
RAY_LATE = "Exception: The current node timed out during startup. This could happen because ...\n"


class Verl:
    """In place of verl: makes steps and leaves what verl leaves of them, but weights."""

    def __init__(self) -> None:
        self.attempts = 0
        self.until = STEPS
        self.code = 0
        self.killed = False
        self.late = 0  # so many times Ray does not start in time

    def __call__(self, overrides, resources, log, steps, lock, memory, retriever) -> int:
        checkpoint_dir = log.parent
        self.attempts += 1
        if self.late:
            self.late -= 1
            next_attempt(checkpoint_dir / "metrics").touch()
            log.write_text(log.read_text() + RAY_LATE)
            return 1
        tracker = checkpoint_dir / TRACKER
        done = int(tracker.read_text()) if tracker.is_file() else 0
        metrics = next_attempt(checkpoint_dir / "metrics")
        rows = [{"step": step, "data": {"x": 1.0}} for step in range(done + 1, self.until + 1)]
        metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (checkpoint_dir / f"global_step_{self.until}").mkdir()
        tracker.write_text(str(self.until))
        hydra = checkpoint_dir / "hydra" / ".hydra"
        hydra.mkdir(parents=True, exist_ok=True)
        (hydra / "config.yaml").write_text("trainer: {}\n")
        time.sleep(0.11)
        if self.killed:
            raise SystemExit(137)
        if self.code:
            (checkpoint_dir / STOP).write_text("as it was asked to")
        return self.code


def write_model(folder: Path, value: float = 0.0) -> None:
    """A model directory with a single weight."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": np.full(1, value)}, folder / "model.safetensors")


class Study:
    """A study of one run in ``workdir``, whose training takes no time."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        data = workdir / "data"
        data.mkdir()
        for split in ("train", "val"):
            pd.DataFrame({"prompt": ["1 + 1"]}).to_parquet(data / f"{split}.parquet")
        source = {"hub": "owner/problems", "commit": "3" * 40}
        (data / "manifest.json").write_text(json.dumps({"source": source, "test_source": None}))
        write_model(workdir / "model")
        self.model = str(workdir / "model")
        self.code = workdir / "reward_mask.py"
        self.code.write_text("x = 1\n")
        self.run_dir = workdir / "results/runs/cold/seed0"
        self.checkpoints = workdir / "results/checkpoints/cold/seed0"

    def train(self, resources: dict | None = None, **train: object) -> dict:
        raw = {
            "models": {"tiny": {"path": self.model}},
            "tasks": {
                "c": {
                    "kind": "countdown",
                    "source": {"files": {"train": "a.jsonl"}},
                    "split": {"test": 1},
                }
            },
            "runs": {"cold": {"model": "tiny", "task": "c", "train": {"steps": STEPS} | train}},
            "resources": resources or {},
        }
        training = job.Training(
            load_config(raw),
            run="cold",
            seed=0,
            model_dir=self.model,
            critic_dir=None,
            data_dir=self.workdir / "data",
            run_dir=self.run_dir,
            checkpoint_dir=self.checkpoints,
            manifest=self.workdir / "data/manifest.json",
            sources=[self.code],
        )
        job.train_run(training)
        return json.loads((self.run_dir / "provenance.json").read_text())

    def asides(self) -> list[Path]:
        return list(self.checkpoints.parent.glob("seed0.replaced-*"))


@pytest.fixture
def verl(monkeypatch) -> Verl:
    trainer = Verl()
    monkeypatch.setattr(job, "run_verl", trainer)
    monkeypatch.setattr(job, "check_training", lambda *_: [])
    monkeypatch.setattr(job, "check_batch", lambda *_: None)
    return trainer


@pytest.fixture
def study(tmp_path, verl) -> Study:
    return Study(tmp_path)


def test_a_record_says_who_trained_when_where_with_what_and_how_long(study):
    record = study.train()
    (attempt,) = record["attempts"]
    assert attempt["steps"] == {"from": 0, "to": STEPS}
    assert attempt["result"] == "finished"
    assert attempt["host"] and attempt["started"] <= attempt["ended"]
    assert attempt["wall_time_seconds"] >= 0.1
    assert set(attempt["git"]) == {"commit", "dirty"}
    assert attempt["versions"]["verl"] == "0.9.1"
    assert attempt["machine"]["cores"] >= 1
    assert record["settings"]["run"] == "cold"
    assert record["settings"]["problems"]["source"]["commit"] == "3" * 40
    assert record["wall_time_seconds"] == attempt["wall_time_seconds"]
    assert len(record["inputs"]["model/model.safetensors"]) == 64
    assert (study.checkpoints / "provenance.json").read_text() == (
        study.run_dir / "provenance.json"
    ).read_text()


def test_a_stage_that_finds_the_training_done_trains_nothing_and_adds_nothing(study, verl):
    before = study.train()
    config = (study.run_dir / "config.yaml").read_text()
    shutil.rmtree(study.run_dir)
    study.code.write_text('"""A docstring."""\nx = 1  # a comment\n')
    after = study.train(resources={"stall_minutes": 7.0, "kv_cache_gb": 2})
    assert verl.attempts == 1
    assert after == before
    assert (study.run_dir / "config.yaml").read_text() == config
    assert study.asides() == []


def test_a_finished_run_whose_code_changed_is_trained_afresh(study, verl):
    study.train()
    study.code.write_text("x = 2\n")
    record = study.train()
    assert verl.attempts == 2
    assert [attempt["steps"]["from"] for attempt in record["attempts"]] == [0]
    (aside,) = study.asides()
    assert (aside / f"global_step_{STEPS}").is_dir()
    assert json.loads((aside / "provenance.json").read_text())["code"] != record["code"]


def stopped(study: Study, verl: Verl) -> None:
    """Train two steps of four."""
    verl.until, verl.code = 2, 1
    with pytest.raises(UserError, match="saved and stopped"):
        study.train()
    verl.until, verl.code = STEPS, 0


def test_each_attempt_stands_in_the_record_and_wall_time_is_their_sum(study, verl):
    stopped(study, verl)
    record = study.train()
    assert [one["steps"] for one in record["attempts"]] == [
        {"from": 0, "to": 2},
        {"from": 2, "to": STEPS},
    ]
    assert [one["result"] for one in record["attempts"]] == ["stopped", "finished"]
    times = [one["wall_time_seconds"] for one in record["attempts"]]
    assert record["wall_time_seconds"] == pytest.approx(sum(times), abs=0.1)
    assert min(times) >= 0.1


def test_a_half_done_run_whose_code_changed_starts_afresh(study, verl):
    stopped(study, verl)
    study.code.write_text("x = 2\n")
    record = study.train()
    assert [one["steps"]["from"] for one in record["attempts"]] == [0]


def test_another_cache_or_micro_batch_goes_on_and_the_record_says_when_it_changed(study, verl):
    stopped(study, verl)
    record = study.train(resources={"kv_cache_gb": 2}, micro_batch_size=16)
    first, second = record["attempts"]
    assert second["steps"]["from"] == 2
    assert first["changed"] == []
    assert second["changed"] == [
        "resources kv_cache_gb: 1 -> 2",
        "train micro_batch_size: 32 -> 16",
    ]


def test_the_commit_that_a_model_of_the_hub_stood_for_is_part_of_the_run(study, verl, monkeypatch):
    refs = study.workdir / "models--owner--model" / "refs"
    refs.mkdir(parents=True)
    for commit in ("1" * 40, "2" * 40):
        (folder := refs.parent / "snapshots" / commit).mkdir(parents=True)
        write_model(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(study.workdir))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    study.model = "owner/model"
    (refs / "main").write_text("1" * 40)
    assert study.train()["revisions"] == {"model": "1" * 40}
    study.train()
    assert verl.attempts == 1
    (refs / "main").write_text("2" * 40)
    assert study.train()["revisions"] == {"model": "2" * 40}
    assert verl.attempts == 2
    assert len(study.asides()) == 1


def test_a_model_that_is_not_there_is_named(study):
    study.model = str(study.workdir / "nowhere")
    with pytest.raises(UserError, match=r"nowhere: there is no such file or model directory"):
        study.train()


def test_an_attempt_that_was_killed_ends_in_the_record_with_its_last_step(study, verl, monkeypatch):
    monkeypatch.setattr(provenance, "end_attempt", lambda *_: None)  # nobody is left to do it
    verl.until, verl.killed = 2, True
    with pytest.raises(SystemExit):
        study.train()
    monkeypatch.undo()
    monkeypatch.setattr(job, "run_verl", verl)
    monkeypatch.setattr(job, "check_training", lambda *_: [])
    monkeypatch.setattr(job, "check_batch", lambda *_: None)
    verl.until, verl.killed = STEPS, False
    killed, last = study.train()["attempts"]
    assert killed["result"] == "killed"
    assert killed["steps"] == {"from": 0, "to": 2}
    assert killed["ended"] <= last["started"]


def test_where_ray_had_no_time_to_start_it_is_tried_once_more(study, verl):
    verl.late = 1
    late, last = study.train()["attempts"]
    assert (late["result"], last["result"]) == ("failed", "finished")
    assert last["steps"] == {"from": 0, "to": STEPS}


def test_and_no_more_than_once(study, verl):
    verl.late = 2
    with pytest.raises(UserError, match="ended with exit code 1"):
        study.train()
    assert verl.attempts == 2


# --- accept -------------------------------------------------------------------------------------


@pytest.fixture
def accepting(monkeypatch, study) -> Callable[..., None]:
    monkeypatch.setattr(accept, "training_files", lambda kind: [study.code])

    def run(*arguments: str) -> None:
        accept.main(["cold", "--directory", str(study.workdir), *arguments])

    return run


def test_an_accepted_run_is_kept_and_the_record_says_who_accepted_what(study, verl, accepting):
    before = study.train()
    study.code.write_text("y = 1\n")
    accepting()
    after = study.train()
    assert verl.attempts == 1
    assert after["attempts"] == before["attempts"]
    (entry,) = after["accepted"]
    (differs,) = entry["differs"]
    assert differs.startswith("code ") and differs.endswith("reward_mask.py differs")
    assert entry["who"] and entry["when"]
    study.code.write_text("y = 2\n")  # later edits are not accepted with it
    study.train()
    assert verl.attempts == 2


def test_half_a_training_goes_on_with_accepted_versions(study, verl, accepting, monkeypatch):
    stopped(study, verl)
    newer = provenance.versions() | {"torch": "99.0"}
    monkeypatch.setattr(provenance, "versions", lambda: newer)
    with pytest.raises(UserError, match=r"torch: .* -> 99\.0.*criticflow accept cold --seed 0"):
        study.train()
    accepting("--seed", "0")
    record = study.train()
    assert [one["steps"]["from"] for one in record["attempts"]] == [0, 2]
    assert record["attempts"][1]["versions"]["torch"] == "99.0"


def test_a_finished_run_is_not_trained_again_for_a_version(study, verl, monkeypatch):
    before = study.train()
    newer = provenance.versions() | {"torch": "99.0"}
    monkeypatch.setattr(provenance, "versions", lambda: newer)
    assert study.train() == before
    assert verl.attempts == 1


def test_what_was_moved_aside_can_be_taken_back(study, verl, accepting):
    before = study.train()
    study.code.write_text("x = 2\n")
    study.train()
    (aside,) = study.asides()
    accepting("--seed", "0", "--restore", aside.name)
    after = study.train()
    assert verl.attempts == 2
    assert after["attempts"] == before["attempts"]
    assert len(after["accepted"]) == 1
    assert len(study.asides()) == 1  # now the other one


def test_a_run_that_does_not_exist_is_an_error_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "criticflow", "accept", "cold"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "results/checkpoints/cold holds no training" in done.stderr
    assert len(done.stderr.splitlines()) == 1
