"""How fast a run learns: the cost of reaching a threshold, and the area under its curve.

A curve is a run's evaluations on validation: one row an evaluation, in order of ``step``, with
``score`` and what it had cost by then (``step``, tokens, seconds, FLOPs: any increasing column).
Thresholds are fixed beforehand; a run that never reaches one is censored, not left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from criticflow.stats.intervals import CONFIDENCE, UNDEFINED, Figure, figure

Floats = NDArray[np.float64]

HELD = 2
"""Evaluations in a row that must be at or above the threshold: a single one may be luck."""


@dataclass(frozen=True)
class Reached:
    """What a run had spent when it reached the threshold, or in all if it did not (censored)."""

    cost: float
    reached: bool


def reached(curve: pd.DataFrame, threshold: float, unit: str = "step", held: int = HELD) -> Reached:
    """The cost at the first of ``held`` evaluations in a row that score at least ``threshold``.

    A run whose last evaluations are too few to hold is censored at the last one.

    Raises:
        ValueError: no evaluations, or costs that do not increase.
    """
    cost = _increasing(curve, unit)
    above = curve["score"].to_numpy(np.float64) >= threshold
    if len(above) >= held:
        runs = np.lib.stride_tricks.sliding_window_view(above, held).all(axis=1)
        if runs.any():
            return Reached(float(cost[np.argmax(runs)]), True)
    return Reached(float(cost[-1]), False)


def median_cost(runs: Sequence[Reached], confidence: float = CONFIDENCE) -> Figure:
    """Median cost over runs by Kaplan and Meier (1958), with bounds where they exist.

    The value is the first cost at which the estimated share of runs that are still below the
    threshold is at most one half (scipy's ``ecdf`` of censored data). The bounds are where the
    pointwise log-log interval of that share passes one half (Brookmeyer and Crowley 1982); None
    where it never does, as with few runs or many censored ones.
    """
    if not runs or not any(run.reached for run in runs):
        return dict(UNDEFINED)
    survival = stats.ecdf(_censored(runs)).sf
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # undefined bounds are dealt with below
        band = survival.confidence_interval(confidence, method="log-log")

    def first_under(share: Floats) -> float:
        under = np.flatnonzero(share <= 0.5)
        return float(survival.quantiles[under[0]]) if len(under) else float("nan")

    # A bound that scipy leaves undefined (before any event, after the last run) excludes nothing.
    low = np.where(np.isnan(band.low.probabilities), 0.0, band.low.probabilities)
    high = np.where(np.isnan(band.high.probabilities), 1.0, band.high.probabilities)
    begun = survival.probabilities < 1
    return figure(
        first_under(survival.probabilities),
        first_under(np.where(begun, low, 1.0)),
        first_under(high),
    )


def compare(first: Sequence[Reached], second: Sequence[Reached]) -> float | None:
    """p of "both arms reach the threshold at the same rate" (log-rank test, scipy's ``logrank``).

    None where no training of either arm reached it, or all at once. With fewer than about five of
    each that did, the p says little: the test relies on large samples.
    """
    if not any(run.reached for run in (*first, *second)):
        return None
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # no variance: nan, which is dealt with
        p = float(stats.logrank(_censored(first), _censored(second)).pvalue)
    return p if np.isfinite(p) else None


def area(curve: pd.DataFrame, unit: str = "step", until: float | None = None) -> float:
    """Mean score over training: area under the validation curve over its width (trapezoids).

    Args:
        until: cost at which the area ends, the same for all runs that are compared (their smallest
            total); the score there is interpolated. None: the curve's end.

    Raises:
        ValueError: ``until`` lies outside the curve; fewer than two evaluations.
    """
    cost = _increasing(curve, unit)
    score = curve["score"].to_numpy(np.float64)
    end = float(cost[-1]) if until is None else until
    if len(cost) < 2 or not cost[0] < end <= cost[-1]:
        raise ValueError(f"no area from {cost[0]:g} until {end:g} {unit}: the curve ends elsewhere")
    inside = cost < end
    x = np.append(cost[inside], end)
    y = np.append(score[inside], np.interp(end, cost, score))
    return float(np.trapezoid(y, x) / (end - cost[0]))


def paired_seeds(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """``first - second`` of one figure a run (an area, a cost), paired by seed: Student's t.

    Returns:
        ``seeds``, ``difference {value, low, high}`` and ``p`` (scipy's ``ttest_rel``); no bounds
        with fewer than two common seeds, or where all differences are equal.
    """
    seeds = sorted(set(first) & set(second))
    one = np.array([first[seed] for seed in seeds], dtype=np.float64)
    other = np.array([second[seed] for seed in seeds], dtype=np.float64)
    value = float(np.mean(one - other)) if seeds else float("nan")
    if len(seeds) < 2 or np.ptp(one - other) == 0:
        return {"seeds": seeds, "difference": figure(value), "p": None}
    test = stats.ttest_rel(one, other)
    bounds = test.confidence_interval(confidence)
    return {
        "seeds": seeds,
        "difference": figure(value, float(bounds.low), float(bounds.high)),
        "p": float(test.pvalue),
    }


def _censored(runs: Sequence[Reached]) -> stats.CensoredData:
    return stats.CensoredData.right_censored(
        [run.cost for run in runs], [not run.reached for run in runs]
    )


def _increasing(curve: pd.DataFrame, unit: str) -> Floats:
    cost = curve[unit].to_numpy(np.float64)
    if not len(cost) or np.any(np.diff(cost) <= 0):
        raise ValueError(f"evaluations must be in order of increasing {unit}")
    return cost
