"""The base model beside a trained actor, with the entropy of that actor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from criticflow.config import Evaluate
from criticflow.errors import UserError
from criticflow.files import write_json
from criticflow.stages.tempered import settings_for, temperature_for, write_comparison
from criticflow.stats import crossed

CURVE = pd.DataFrame({"temperature": [0.2, 0.5, 0.8, 1.0], "entropy": [0.1, 0.4, 0.38, 0.6]})


@pytest.mark.parametrize(
    ("entropy", "temperature"),
    [
        (0.1, 0.2),
        (0.25, 0.35),  # half way
        (0.5, 0.9),
        (0.6, 1.0),
        (0.01, 0.2),  # nothing is as sure: the coldest that was tried
        (2.0, 1.0),
    ],
)
def test_temperature_is_read_off_the_curve(entropy, temperature):
    assert temperature_for(entropy, CURVE) == pytest.approx(temperature)


def test_noise_of_the_curve_gives_no_temperature_out_of_order():
    temperatures = [temperature_for(entropy, CURVE) for entropy in np.linspace(0, 0.7, 50)]
    assert temperatures == sorted(temperatures)


def test_only_the_temperature_of_the_evaluation_changes(tmp_path):
    CURVE.to_parquet(tmp_path / "curve.parquet")
    write_json(tmp_path / "summary.json", {"avg_entropy": 0.25})
    before = Evaluate(n=8, seed=3)
    after = settings_for(before, tmp_path / "summary.json", tmp_path / "curve.parquet")
    assert after.temperature == pytest.approx(0.35)
    assert after.model_copy(update={"temperature": 1.0}) == before


def evaluated(folder: Path, rate: float, seed: int, problems: int = 200) -> Path:
    """An evaluation whose answers are right with probability ``rate``, some problems more often."""
    rng = np.random.default_rng(seed)
    ease = np.random.default_rng(99).normal(0, 0.1, problems)
    parts = []
    for mode, count in (("greedy", 1), ("sampled", 4)):
        index = np.repeat(np.arange(problems), count)
        right = rng.random(len(index)) < rate + ease[index]
        parts.append(
            pd.DataFrame(
                {
                    "key": [f"p{i}" for i in index],
                    "mode": mode,
                    "prompt_index": index,
                    "sample_index": np.tile(np.arange(count), problems),
                    "score": right.astype(float),
                    "correct": right,
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    folder.mkdir(parents=True)
    frame.to_parquet(folder / "samples.parquet")
    sampled = frame[frame["mode"] == "sampled"]
    figures = {"temperature": 1 - rate, "avg_entropy": rate, "pass@1": sampled["correct"].mean()}
    write_json(folder / "summary.json", figures)
    return folder


def compared(tmp_path: Path, seeds: list[int], trained: float = 0.6):
    tempered = {seed: evaluated(tmp_path / f"cooled{seed}", 0.4, seed) for seed in seeds}
    actors = {seed: evaluated(tmp_path / f"actor{seed}", trained, 10 + seed) for seed in seeds}
    base = evaluated(tmp_path / "base", 0.3, 77)
    rows = write_comparison(
        {"cold": tempered}, {"cold": actors}, {"cold": base}, Evaluate(), tmp_path / "rows.json"
    )
    return rows[0], tempered, actors, base


def cells(folder: Path, mode: str) -> np.ndarray:
    frame = pd.read_parquet(folder / "samples.parquet")
    rows = frame[frame["mode"] == mode]
    return rows.groupby("key")["correct"].mean().to_numpy()


def test_differences_are_over_seeds_and_problems(tmp_path):
    row, tempered, actors, base = compared(tmp_path, [0, 1, 2])
    sampled = [
        cells(actors[seed], "sampled") - cells(tempered[seed], "sampled") for seed in (0, 1, 2)
    ]
    assert row["sampled"] == pytest.approx(crossed.mean(np.stack(sampled)).figure())
    greedy = [cells(actors[seed], "greedy") - cells(base, "greedy") for seed in (0, 1, 2)]
    assert row["greedy"] == pytest.approx(crossed.mean(np.stack(greedy)).figure())
    assert row["sampled"]["low"] > 0.1 and row["seeds"] == [0, 1, 2]
    assert row["temperature"] == pytest.approx(0.6) and row["entropy"] == pytest.approx(0.4)
    assert row["actor_entropy"] == pytest.approx(0.6)


def test_an_actor_that_is_only_surer_has_learned_nothing(tmp_path):
    row, *_ = compared(tmp_path, [0, 1, 2], trained=0.4)
    assert row["sampled"]["low"] < 0 < row["sampled"]["high"]


def test_one_seed_has_an_interval_over_problems(tmp_path):
    row, *_ = compared(tmp_path, [0])
    assert row["sampled"]["low"] < row["sampled"]["value"] < row["sampled"]["high"]


def test_other_problems_are_an_error(tmp_path):
    _, tempered, actors, base = compared(tmp_path, [0])
    frame = pd.read_parquet(tempered[0] / "samples.parquet")
    frame.assign(key="x" + frame["key"]).to_parquet(tempered[0] / "samples.parquet")
    with pytest.raises(UserError, match=r"cold and its base model: .* problems"):
        write_comparison(
            {"cold": tempered}, {"cold": actors}, {"cold": base}, Evaluate(), tmp_path / "rows.json"
        )
