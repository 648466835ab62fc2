"""verl's trackers: off unless asked for, beside the metrics file, on this machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from criticflow.config import Config, Resources, read_config
from criticflow.config.load import load_config
from criticflow.errors import UserError
from criticflow.training.deciding import deciding
from criticflow.training.environment import environment
from criticflow.training.overrides import Places, verl_overrides
from criticflow.training.preflight import check_trackers
from forking_python import forking_python

DEFAULT = Path(__file__).parents[2] / "config/config.yaml"


def study(*names: str) -> Config:
    raw = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    raw["train"]["logger"] = list(names)
    return load_config(raw)


def loggers(config: Config) -> list[str]:
    run = config.runs["cold"]
    overrides = verl_overrides(
        run,
        config.models[run.model],
        config.tasks[run.task],
        config.resources,
        name="cold",
        seed=0,
        places=Places("model", None, Path("data"), Path("checkpoints")),
    )
    (found,) = [one for one in overrides if one.startswith("trainer.logger=")]
    return json.loads(found.partition("=")[2])


def test_nothing_but_the_file_by_default():
    assert loggers(read_config(DEFAULT)) == ["console", "file"]


def test_a_tracker_comes_beside_the_file_and_retrains_nothing():
    config = study("tensorboard", "wandb")
    assert loggers(config) == ["console", "file", "tensorboard", "wandb"]
    assert deciding(config, "cold") == deciding(read_config(DEFAULT), "cold")
    with pytest.raises(UserError, match=r"runs\.cold\.train\.logger"):
        study("clearml")


def test_a_tracker_that_is_not_installed_is_named():
    check_trackers(["tensorboard"])
    with pytest.raises(
        UserError, match=r"swanlab is not installed: \.venv/bin/pip install swanlab"
    ):
        check_trackers(["tensorboard", "swanlab"])


@pytest.mark.seconds
def test_tensorboard_writes_beside_the_checkpoints(tmp_path, monkeypatch):
    """By verl's own Tracking, in the environment of a training."""
    for name in ("TENSORBOARD_DIR", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    metrics = tmp_path / "metrics" / "attempt-0000.jsonl"
    metrics.parent.mkdir()
    code = (
        "from verl.utils.tracking import Tracking\n"
        "tracking = Tracking('criticflow', 'cold', ['file', 'tensorboard'], config={})\n"
        "tracking.log({'critic/score/mean': 0.5}, step=1)\n"
    )
    env = environment(Resources(), metrics)
    python = forking_python("verl.utils.tracking")
    subprocess.run([python, "-c", code], env=env, cwd=tmp_path, check=True)
    assert list((tmp_path / "trackers/tensorboard").glob("events.out.tfevents.*"))
    assert json.loads(metrics.read_text())["data"]["critic/score/mean"] == 0.5
    monkeypatch.setenv("TENSORBOARD_DIR", "elsewhere")
    assert environment(Resources(), metrics)["TENSORBOARD_DIR"] == "elsewhere"
