"""Validation curves of runs, read from their metrics, and what is said of arms by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from criticflow.config import load_config
from criticflow.config.contrasts import declared
from criticflow.errors import UserError
from criticflow.report import tables
from criticflow.stages.speed import write_speed
from criticflow.stages.training_costs import cumulative, validation_curve
from criticflow.stats.flops import Size

CONFIG = Path(__file__).parents[2] / "config" / "config.yaml"
ARMS = {
    "cold": {"model": "tiny", "task": "countdown-mini"},
    "flat": {"like": "cold", "reward_mask": {"ratio": 0.5}},
}


def study(threshold: float | None = 0.5):
    raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8")) | {
        "runs": ARMS,
        "seeds": [0, 1, 2],
        "validation_threshold": threshold,
        "contrasts": [{"name": "mask", "a": "flat", "b": "cold"}],
    }
    raw["train"] = raw["train"] | {"test_every": 10, "steps": 40}
    return load_config(raw)


def metrics(scores: list[float], steps: int = 40) -> pd.DataFrame:
    """Metrics of a run that was validated before it began and every ten steps."""
    step = np.arange(steps + 1)
    table = pd.DataFrame(
        {
            "step": step,
            "response_length/mean": 20.0,
            "prompt_length/mean": 10.0,
            "timing_s/step": 2.0,
            "val-core/countdown/reward/mean@1": np.nan,
        }
    )
    table.loc[0, ["response_length/mean", "prompt_length/mean", "timing_s/step"]] = np.nan
    table.loc[table["step"] % 10 == 0, "val-core/countdown/reward/mean@1"] = scores
    return table


@pytest.fixture
def files(tmp_path) -> dict[str, dict[int, Path]]:
    curves = {
        "cold": [0.3, 0.4, 0.55, 0.6, 0.6],
        "flat": [0.3, 0.3, 0.55, 0.3, 0.6],
    }
    found: dict[str, dict[int, Path]] = {}
    for arm, scores in curves.items():
        for seed in range(3):
            path = tmp_path / arm / f"seed{seed}" / "metrics.parquet"
            path.parent.mkdir(parents=True)
            spread = seed / (100 if arm == "cold" else 90)
            metrics([score + spread for score in scores]).to_parquet(path)
            found.setdefault(arm, {})[seed] = path
    return found


@pytest.fixture
def models(tmp_path) -> dict[str, dict[int, Path]]:
    path = tmp_path / "size.json"
    path.write_text(json.dumps({"parameters": 10, "multiplied": 8, "layers": 2, "width": 3}))
    return {arm: dict.fromkeys(range(3), path) for arm in ARMS}


def test_costs_add_up_step_by_step(models):
    run, size = study().runs["cold"], models["cold"][0]
    costs = cumulative(metrics([0.1] * 5), run, size, size)
    assert costs.loc[0, ["steps", "generated_tokens", "seconds", "flops"]].tolist() == [0] * 4
    assert costs.loc[40, "generated_tokens"] == 40 * 20 * run.train.batch_size
    assert costs.loc[40, "seconds"] == 80
    forward = Size(10, 8, 2, 3).forward(30 * run.train.batch_size, 30)
    critic = 3 * run.train.critic_epochs  # forward and backward passes of its updates
    assert costs.loc[1, "flops"] == pytest.approx(forward * (2 + 1 + critic + 3))
    assert costs.loc[40, "flops"] - costs.loc[39, "flops"] == pytest.approx(costs.loc[1, "flops"])
    warming = run.model_copy(update={"train": run.train.model_copy(update={"critic_warmup": 3})})
    costs = cumulative(metrics([0.1] * 5), warming, size, size)
    assert costs.loc[3, "flops"] == pytest.approx(3 * forward * (2 + 1 + critic))


def test_a_step_without_metrics_counts_as_the_median():
    table = metrics([0.1] * 5)
    table.loc[7, table.columns[1:]] = np.nan
    costs = cumulative(table, study().runs["cold"], None, None)
    assert costs.loc[40, "seconds"] == 80 and costs["flops"].iloc[1:].isna().all()
    assert validation_curve(table, costs)["step"].tolist() == [0, 10, 20, 30, 40]


def test_a_threshold_is_held_at_two_evaluations_or_censored(files, models, tmp_path):
    config = study()
    found = write_speed(
        config,
        files,
        models,
        models,
        declared(config.contrasts, config.runs),
        tmp_path / "speed.json",
    )
    assert json.loads((tmp_path / "speed.json").read_text()) == found
    cold, flat = found["arms"]
    assert (found["threshold"], found["until"]) == (0.5, 40)
    assert cold["units"]["steps"]["by_seed"] == [{"cost": 20.0, "reached": True}] * 3
    assert cold["units"]["generated_tokens"]["median"]["value"] == 20 * 20 * 128
    assert cold["units"]["seconds"]["median"]["value"] == 40
    assert cold["units"]["flops"]["median"]["value"] > 0
    assert flat["units"]["steps"]["by_seed"] == [{"cost": 40.0, "reached": False}] * 3
    assert flat["units"]["steps"]["reached"] == 0
    assert flat["units"]["steps"]["median"]["value"] is None
    assert cold["area"]["value"] == pytest.approx(0.5 + 0.01)
    assert cold["area"]["low"] < cold["area"]["value"] < cold["area"]["high"]
    (contrast,) = found["contrasts"]
    assert contrast["area"]["difference"]["value"] == pytest.approx(0.4 - 0.5, abs=0.01)
    assert 0 < contrast["p"]["steps"] < 0.05
    shown = tables.speed(found)
    row = {title: cell for title, cell in zip(shown.head, shown.rows[1], strict=True)}
    assert row["reached it"].text == "0 of 3" and row["steps"].text == "not reached"
    assert row["steps"].small == ">\u00a040, >\u00a040, >\u00a040"
    assert tables.speed_contrasts(found).rows[0][0].small == "flat minus cold"


def test_without_a_threshold_there_are_areas_alone(files, tmp_path):
    config = study(None)
    found = write_speed(
        config, files, {}, {}, declared(config.contrasts, config.runs), tmp_path / "speed.json"
    )
    assert [row["units"] for row in found["arms"]] == [{}, {}]
    assert found["contrasts"][0]["p"] == {}
    assert tables.speed(found).head == ["arm", "seeds", "area under the curve"]


def test_runs_that_were_never_validated_have_no_curve(files, tmp_path):
    for seeds in files.values():
        for path in seeds.values():
            table = pd.read_parquet(path)
            table.drop(columns="val-core/countdown/reward/mean@1").to_parquet(path)
    config = study(None)
    found = write_speed(
        config, files, {}, {}, declared(config.contrasts, config.runs), tmp_path / "speed.json"
    )
    assert found == {"threshold": None, "until": None, "arms": [], "contrasts": []}


def test_a_threshold_needs_validation():
    raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8")) | {"validation_threshold": 0.5}
    with pytest.raises(UserError, match=r"no run is validated .* set train\.test_every"):
        load_config(raw)
