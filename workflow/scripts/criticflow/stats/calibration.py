"""How well a critic's values predict what comes of a response: no torch, no files.

A table of states has one row per state: ``prompt`` (number of its prompt, from 0), ``sample``
(number of its response), ``value``, ``return`` (the Monte-Carlo return from there) and ``correct``
(whether the response is right in the end). Intervals resample prompts: every figure is a function
of the weights of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import outcomes

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Weights of the prompts, ``(resamples, prompts)``, to a figure, ``(resamples,)``; nan where it is
undefined."""

BINS = 10
"""Bins of the values, of equal width, from 0 to 1."""


def state_figures(
    states: pd.DataFrame, prompts: int, seed: int, resamples: int, confidence: float
) -> dict[str, Any]:
    """Explained variance, Brier score, ECE and AUC of one table of states.

    Each is ``value``, ``low`` and ``high`` (bootstrap over the ``prompts``), or None where it is
    undefined: explained variance where all returns are equal, AUC without a right or without a
    wrong response. The AUC is left out where a response has several states: they share its outcome.
    """
    statistics = {
        "explained_variance": explained_variance(states, prompts),
        "brier": brier(states, prompts),
        "ece": expected_calibration_error(states, prompts),
    }
    if not states["sample"].duplicated().any():
        statistics["auc"] = auc(states, prompts)
    return {
        "states": len(states),
        "mean_value": float(states["value"].mean()),
        "mean_return": float(states["return"].mean()),
        **{
            name: estimate(statistic, prompts, seed, resamples, confidence)
            for name, statistic in statistics.items()
        },
    }


def estimate(
    statistic: Statistic, prompts: int, seed: int, resamples: int, confidence: float
) -> dict[str, Any] | None:
    """A figure with its interval; None where it is undefined."""
    found = outcomes.bootstrap_weights(statistic, prompts, seed, resamples, confidence)
    return None if np.isnan(found.value) else asdict(found)


def explained_variance(states: pd.DataFrame, prompts: int) -> Statistic:
    """``1 - Var(G - V) / Var(G)`` over states, G the return and V the value; nan if Var(G) is 0."""
    returns = states["return"].to_numpy(np.float64)
    errors = returns - states["value"].to_numpy(np.float64)
    columns = [np.ones(len(states)), returns, returns**2, errors, errors**2]
    sums = _sums(states, prompts, columns)

    def statistic(weights: Floats) -> Floats:
        count, *totals = (weights @ sums).T
        first, second, error, error_squared = (total / count for total in totals)
        return 1.0 - (error_squared - error**2) / _not_zero(second - first**2)

    return statistic


def brier(states: pd.DataFrame, prompts: int) -> Statistic:
    """Mean of ``(V - G)^2``: the score of Brier (1950) where returns are 0 or 1."""
    squares = (states["value"] - states["return"]).to_numpy(np.float64) ** 2
    sums = _sums(states, prompts, [np.ones(len(states)), squares])

    def statistic(weights: Floats) -> Floats:
        count, total = (weights @ sums).T
        return total / count

    return statistic


def expected_calibration_error(states: pd.DataFrame, prompts: int) -> Statistic:
    """Mean distance of mean value and mean return in a bin, bins weighted by their states.

    ECE of Naeini et al. (2015), for values that predict an expected return.
    """
    errors = (states["value"] - states["return"]).to_numpy(np.float64)
    inside = _bin(states)[:, None] == np.arange(BINS)
    sums = _sums(states, prompts, [np.ones(len(states)), *np.where(inside, errors[:, None], 0).T])

    def statistic(weights: Floats) -> Floats:
        count, *bins = (weights @ sums).T
        return np.abs(np.stack(bins)).sum(axis=0) / count

    return statistic


def auc(states: pd.DataFrame, prompts: int) -> Statistic:
    """Probability that a state of a right response has the higher value; ties count half.

    nan where there is no right or no wrong response.
    """
    ordered = states.sort_values("value", kind="stable")
    owner = ordered["prompt"].to_numpy()
    right = ordered["correct"].to_numpy(bool)
    # Equal values are one step of the ROC curve.
    starts = np.flatnonzero(np.diff(ordered["value"].to_numpy(), prepend=-np.inf))

    def statistic(weights: Floats) -> Floats:
        each = weights[:, owner]
        good = np.add.reduceat(np.where(right, each, 0), starts, axis=1)
        bad = np.add.reduceat(np.where(right, 0, each), starts, axis=1)
        below = np.cumsum(bad, axis=1) - bad / 2
        pairs = good.sum(axis=1) * bad.sum(axis=1)
        return (good * below).sum(axis=1) / _not_zero(pairs)

    return statistic


def correlation(first: Floats, second: Floats) -> Statistic:
    """Pearson's r of two figures of each prompt, ``(prompts,)``; nan if one of them is constant."""
    first, second = _scaled(first), _scaled(second)
    sums = np.stack([first, second, first**2, second**2, first * second], axis=1)

    def statistic(weights: Floats) -> Floats:
        x, y, xx, yy, xy = (weights @ sums / weights.sum(axis=1, keepdims=True)).T
        return (xy - x * y) / np.sqrt(_not_zero(xx - x**2) * _not_zero(yy - y**2))

    return statistic


def reliability(states: pd.DataFrame) -> list[dict[str, Any]]:
    """The reliability diagram: per bin with states its bounds, how many, mean value and return.

    A value under 0 or over 1 belongs to the bin at that end.
    """
    groups = states[["value", "return"]].groupby(_bin(states))
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "states": len(group),
            "mean_value": float(group["value"].mean()),
            "mean_return": float(group["return"].mean()),
        }
        for number, group in groups
    ]


def _bin(states: pd.DataFrame) -> NDArray[np.integer]:
    return np.clip((states["value"].to_numpy() * BINS).astype(np.int64), 0, BINS - 1)


def _not_zero(variance: Floats) -> Floats:
    """nan where a variance is 0 but for rounding, among numbers of about 1."""
    return np.where(variance > 1e-12, variance, np.nan)


def _scaled(values: Floats) -> Floats:
    spread = np.ptp(values)
    return (values - values.mean()) / (spread if spread else 1.0)


def _sums(states: pd.DataFrame, prompts: int, columns: list[Floats]) -> Floats:
    """Sums of the columns over the states of each prompt, ``(prompts, columns)``."""
    owner = states["prompt"].to_numpy()
    return np.stack([np.bincount(owner, column, prompts) for column in columns], axis=1)
