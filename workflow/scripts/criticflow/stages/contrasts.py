"""What the evaluations of all runs say together: every arm over its seeds, every contrast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.errors import UserError
from criticflow.files import write_json
from criticflow.logs import progress
from criticflow.stages.seed_scores import seed_scores
from criticflow.stats import contrasts, crossed

METRICS = ("greedy.pass@1", "pass@1", "mean_score")
"""Metrics of every arm, beside those that the study's contrasts name."""

Samples = Mapping[str, Mapping[int, Path]]
"""``samples.parquet`` of the evaluations, by arm and seed of the training."""


def write_contrasts(
    samples: Samples,
    compared: Sequence[Mapping[str, Any]],
    smallest_effect: float | None,
    out: Path,
) -> list[dict[str, Any]]:
    """Write ``contrasts.json``: a row per contrast (:func:`criticflow.stats.contrasts.rows`).

    Args:
        compared: as :func:`criticflow.config.contrasts.declared` gives them.
        smallest_effect: smallest difference of interest, in units of the metric.

    Raises:
        UserError: the two arms of a contrast were not evaluated on the same problems.
    """
    wanted = [contrasts.Contrast(**contrast) for contrast in compared]
    metrics: dict[str, set[str]] = {}
    for one in wanted:
        for arm in filter(None, (one.a, one.b, one.oracle)):
            metrics.setdefault(arm, set()).add(one.metric)
    scores = {arm: _scores(samples[arm], sorted(names)) for arm, names in metrics.items()}
    try:
        rows = contrasts.rows(wanted, scores, smallest_effect)
    except ValueError as error:
        raise UserError(f"contrasts: {error}: evaluate these arms again") from error
    write_json(out, rows)
    for row in rows:
        progress(f"{row['name']}: {row['verdict']}")
    return rows


def write_arms(
    samples: Samples, compared: Sequence[Mapping[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Write ``arms.json``: a row per arm and metric.

    ``arm``, ``metric``, ``seeds`` (list), ``problems``, ``mean {value, low, high}`` over seeds and
    problems, ``iqm`` over seeds, ``by_seed``, and the standard deviations ``sd_seed``,
    ``sd_problem`` and ``sd_rest`` (:func:`criticflow.stats.crossed.arm`).

    Raises:
        UserError: not every seed of an arm was evaluated on the same problems.
    """
    metrics = dict.fromkeys([*METRICS, *(contrast["metric"] for contrast in compared)])
    rows = []
    for arm, files in samples.items():
        table = _scores(files, metrics)
        for metric in metrics:
            try:
                cells, seeds, _ = crossed.grid(table, metric)
            except ValueError as error:
                raise UserError(f"{arm}: {error}: evaluate its seeds again") from error
            rows.append({"arm": arm, "metric": metric, **crossed.arm(cells), "seeds": seeds})
    write_json(out, rows)
    return rows


def _scores(files: Mapping[int, Path], metrics: Iterable[str]) -> pd.DataFrame:
    """``seed``, ``problem`` and a column per metric, empty in the rows of another metric."""
    return pd.concat([seed_scores(files, metric) for metric in metrics], ignore_index=True)
