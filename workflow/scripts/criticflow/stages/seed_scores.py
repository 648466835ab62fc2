"""Scores of one arm over its seeds and problems, as statistics of a contrast take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from criticflow.stats.outcomes import pass_at_k, per_prompt

COLUMNS = ["key", "mode", "prompt_index", "sample_index", "score", "correct"]


def seed_scores(samples: Mapping[int, Path], metric: str) -> pd.DataFrame:
    """``seed``, ``problem`` (its key) and a column named ``metric``: one row a sample.

    Of ``pass@k`` with k over 1 there is one row a problem.

    Args:
        samples: ``samples.parquet`` of an evaluation, by seed of the training.
        metric: ``mean_score`` or ``pass@k`` of the samples, ``greedy.mean_score`` or
            ``greedy.pass@1`` of the greedy answers.
    """
    return pd.concat(
        [
            _of_seed(pd.read_parquet(path, columns=COLUMNS), metric).assign(seed=seed)
            for seed, path in samples.items()
        ],
        ignore_index=True,
    )[["seed", "problem", metric]]


def _of_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    greedy, _, name = metric.rpartition(".")
    frame = frame[frame["mode"] == ("greedy" if greedy else "sampled")].sort_values(
        ["prompt_index", "sample_index"]
    )
    if name in ("mean_score", "pass@1"):
        column = "score" if name == "mean_score" else "correct"
        return pd.DataFrame({"problem": frame["key"], metric: frame[column].astype(float)})
    correct = per_prompt(frame, "correct")
    k = int(name.removeprefix("pass@"))
    return pd.DataFrame(
        {
            "problem": frame.drop_duplicates("prompt_index")["key"].to_numpy(),
            metric: pass_at_k(correct.sum(axis=1).astype(int), correct.shape[1], k),
        }
    )
