"""Evaluations of arms and seeds become rows of arms and contrasts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from criticflow.config import load_config
from criticflow.config.contrasts import declared
from criticflow.config.merging import merge
from criticflow.errors import UserError
from criticflow.stages.contrasts import write_arms, write_contrasts

PROJECT = Path(__file__).parents[2]
PROBLEMS = 80
RATES = {"warm": 0.7, "constant": 0.4}


def evaluations(folder: Path, seeds: int, problems: int = PROBLEMS) -> dict[str, dict[int, Path]]:
    """Samples of two arms, of which the first solves more problems."""
    found: dict[str, dict[int, Path]] = {}
    for arm, rate in RATES.items():
        for seed in range(seeds):
            draw = np.random.default_rng([seed, len(arm)])
            rows = []
            for problem in range(problems):
                for mode, count in (("greedy", 1), ("sampled", 4)):
                    for sample in range(count):
                        right = bool(draw.random() < rate)
                        rows.append(
                            {
                                "key": f"problem {problem}",
                                "mode": mode,
                                "prompt_index": problem,
                                "sample_index": sample,
                                "score": 1.0 if right else 0.1,
                                "correct": right,
                            }
                        )
            path = folder / arm / f"seed{seed}" / "samples.parquet"
            path.parent.mkdir(parents=True)
            pd.DataFrame(rows).to_parquet(path)
            found.setdefault(arm, {})[seed] = path
    return found


def compared(*metrics: str) -> list[dict[str, str]]:
    return [
        {
            "name": f"critic by {metric}",
            "a": "warm",
            "b": "constant",
            "kind": "secondary" if number else "primary",
            "metric": metric,
            "differs_in": "critic source",
        }
        for number, metric in enumerate(metrics)
    ]


def test_a_contrast_is_the_mean_difference_of_its_arms_on_their_seeds(tmp_path):
    samples = evaluations(tmp_path, seeds=3)
    out = tmp_path / "contrasts.json"
    write_contrasts(samples, compared("greedy.pass@1", "pass@4"), None, out)
    first, second = json.loads(out.read_text())
    rates = {
        arm: np.mean(
            [
                frame.loc[frame["mode"] == "greedy", "correct"].mean()
                for frame in map(pd.read_parquet, files.values())
            ]
        )
        for arm, files in samples.items()
    }
    assert first["difference"]["value"] == pytest.approx(rates["warm"] - rates["constant"])
    assert first["difference"]["low"] > 0 and first["p"] < 0.05
    assert first["verdict"].startswith("better: warm against constant")
    assert first["seeds"] == [0, 1, 2] and first["p_holm"] is None
    assert second["metric"] == "pass@4" and second["p_holm"] == second["p"]
    laid_down = {"name", "a", "b", "differs_in", "kind", "metric", "seeds", "difference"}
    laid_down |= {"probability_of_improvement", "p", "p_holm", "verdict"}
    assert laid_down <= first.keys()


def test_one_seed_claims_nothing(tmp_path):
    out = tmp_path / "contrasts.json"
    (row,) = write_contrasts(evaluations(tmp_path, 1), compared("pass@1"), 0.05, out)
    assert row["verdict"].startswith("no claim: 1 seed")
    assert row["difference"]["low"] is None


def test_arms_have_a_row_for_each_metric_with_both_variances(tmp_path):
    rows = write_arms(evaluations(tmp_path, 3), compared("pass@4"), tmp_path / "arms.json")
    assert [(row["arm"], row["metric"]) for row in rows[:4]] == [
        ("warm", metric) for metric in ("greedy.pass@1", "pass@1", "mean_score", "pass@4")
    ]
    row = rows[0]
    assert row["seeds"] == [0, 1, 2] and len(row["by_seed"]) == 3 and row["problems"] == PROBLEMS
    assert row["mean"]["low"] < row["iqm"] < row["mean"]["high"]
    assert row["sd_seed"] is not None and row["sd_problem"] is not None
    assert json.loads((tmp_path / "arms.json").read_text()) == rows


def test_other_problems_are_an_error_that_says_what_to_do(tmp_path):
    samples = evaluations(tmp_path / "one", 3)
    samples["constant"] = evaluations(tmp_path / "other", 3, problems=70)["constant"]
    with pytest.raises(UserError, match="not tested on the same problems: evaluate these arms"):
        write_contrasts(samples, compared("pass@1"), None, tmp_path / "contrasts.json")
    files = samples["warm"] | {3: samples["constant"][0]}
    with pytest.raises(UserError, match=r"not every seed has every problem.*evaluate its seeds"):
        write_arms({"warm": files}, [], tmp_path / "arms.json")


def test_declared_contrasts_say_in_which_factors_their_arms_differ():
    default, study = (
        yaml.safe_load((PROJECT / "config" / name).read_text(encoding="utf-8"))
        for name in ("config.yaml", "studies/critic-value.yaml")
    )
    config = load_config(merge(default, study))
    found = {row["name"]: row for row in declared(config.contrasts, config.runs)}
    assert found["critic-under-mask"]["differs_in"] == "critic source"
    assert found["critic-under-mask"]["kind"] == "primary"
    assert found["mask-alone"]["differs_in"] == "mask"
