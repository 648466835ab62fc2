"""Scores by seed and problem, read from the samples of evaluations."""

from __future__ import annotations

import pandas as pd
import pytest

from criticflow.stages.seed_scores import seed_scores


@pytest.fixture
def samples(tmp_path):
    """Two problems, one greedy answer and two samples each; seed 1 solves one sample more."""
    rows = []
    for key, greedy, sampled in (("a", True, (True, False)), ("b", False, (False, False))):
        index = "ab".index(key)
        rows.append((key, index, 0, "greedy", greedy, 1.0 if greedy else 0.1))
        rows += [
            (key, index, n, "sampled", one, 1.0 if one else 0.1) for n, one in enumerate(sampled)
        ]
    columns = ["key", "prompt_index", "sample_index", "mode", "correct", "score"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "0.parquet")
    better = frame.copy()
    better.loc[(better["key"] == "b") & (better["sample_index"] == 1), ["correct", "score"]] = [
        True,
        1.0,
    ]
    better.to_parquet(tmp_path / "1.parquet")
    return {seed: tmp_path / f"{seed}.parquet" for seed in (0, 1)}


@pytest.mark.parametrize(
    ("metric", "means"),
    [
        ("greedy.pass@1", {(0, "a"): 1, (0, "b"): 0, (1, "a"): 1, (1, "b"): 0}),
        ("greedy.mean_score", {(0, "a"): 1, (0, "b"): 0.1, (1, "a"): 1, (1, "b"): 0.1}),
        ("pass@1", {(0, "a"): 0.5, (0, "b"): 0, (1, "a"): 0.5, (1, "b"): 0.5}),
        ("pass@2", {(0, "a"): 1, (0, "b"): 0, (1, "a"): 1, (1, "b"): 1}),
        ("mean_score", {(0, "a"): 0.55, (0, "b"): 0.1, (1, "a"): 0.55, (1, "b"): 0.55}),
    ],
)
def test_a_metric_is_the_mean_over_a_problems_rows(samples, metric, means):
    found = seed_scores(samples, metric)
    assert list(found.columns) == ["seed", "problem", metric]
    assert found.groupby(["seed", "problem"])[metric].mean().to_dict() == pytest.approx(means)
