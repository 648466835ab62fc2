"""A critic against the Monte-Carlo truth of an actor's states.

Overall figures weight states equally; problems are the units of the intervals (``intervals.py``).
With V a critic's value, u = v_se^2 the squared error of v_mc, and means over states:

- ``bias`` = mean(V - v_mc)
- ``mse`` = mean((V - v_mc)^2) - mean(u): unbiased for mean((V - V^pi)^2)
- ``variance`` = Var(v_mc) - mean(u): unbiased for Var(V^pi), also for a sample of problems
- ``return_variance`` = mean(n u): the variance of one return G, given its state
- ``share_explained`` = 1 - mse / Var(V^pi): bias counts as error
- ``share_centred`` = 1 - (mse - bias^2) / Var(V^pi): bias does not count, since whitening of the
  advantages removes a constant
- ``explained_variance_ceiling`` = Var(V^pi) / Var(G), Var(G) = Var(V^pi) + mean(n u)
- ``explained_variance`` = 1 - Var(G - V) / Var(G) of fresh returns: share_centred * ceiling
- ``worth_in_rollouts`` = mean(n u) / mse: the mean of k continuations has error mean(n u) / k, so a
  critic with that error is worth k continuations a state
- ``constant_worth`` = mean(n u) / Var(V^pi): the best constant's worth, the floor
- ``spearman``: rank correlation of V with v_mc, lowered by the noise of v_mc; ``spearman_halves``,
  that of two disjoint halves of the continuations, shows by how much

Ratios have Fieller's intervals, the worth that of its inverse. Coverage of the 95 % intervals,
measured on a Markov chain with 64 problems, 6 states each and 32 continuations: 95 to 97 % for each
figure of a critic with errors of its own; 92 % for the share of a critic that is an exact linear
function of the truth (``docs/statistics.md`` has more).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from criticflow.stats import truth_table
from criticflow.stats.intervals import (
    UNDEFINED,
    Figure,
    Joint,
    cluster_sums,
    inverted,
    jackknife,
    jackknife_scalar,
)

Floats = NDArray[np.float64]

# The figures of a Joint, in this order; the others are ratios of their combinations.
BIAS, MSE, CENTRED, VARIANCE, NOISE = np.eye(5)


def figures(
    states: pd.DataFrame,
    values: Floats,
    continuations: pd.DataFrame | None = None,
    gamma: float = 1.0,
) -> dict[str, Any]:
    """All figures of one critic, overall and in ``by_position``.

    Args:
        states: one row a state (``prompt_index, position, n, v_mc, v_se``, ``truth_table``).
        values: the critic's value of each row, shape ``(states,)``, on the scale of the scores.
        continuations: for ``spearman_halves``, which is undefined without them.
        gamma: the discount that ``v_mc`` has, for the returns of the continuations.

    Raises:
        ValueError: another number of values than states; values or errors that are not finite;
            states of fewer than two problems.
    """
    values = checked(states, values)
    halves = None if continuations is None else half_means(states, continuations, gamma)

    def some(rows: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            **ratios(base(states[rows], values[rows])),
            "spearman": spearman(states[rows], values[rows]),
            "spearman_halves": dict(UNDEFINED)
            if halves is None
            else correlation(halves[0][rows], halves[1][rows], states[rows]),
            **sizes(states[rows]),
        }

    return with_positions(states, some)


def with_positions(
    states: pd.DataFrame, some: Callable[[NDArray[np.bool_]], dict[str, Any]]
) -> dict[str, Any]:
    """``some(rows)`` of all states, and of each position with at least two problems."""
    everything = some(np.ones(len(states), dtype=bool))
    problems = states["prompt_index"]
    everything["by_position"] = [
        {"position": position, **some(rows)}
        for position, rows in truth_table.positions(states)
        if problems[rows].nunique() > 1
    ]
    return everything


def base(states: pd.DataFrame, values: Floats) -> Joint:
    """Bias, mse, mse without bias, Var(V^pi) and mean(n u), with their joint errors."""
    return jackknife(
        cluster_sums(truth_table.clusters(states), base_columns(states, values)), of_totals
    )


def base_columns(states: pd.DataFrame, values: Floats) -> list[Floats]:
    """What ``base`` sums over states: 1, d, d^2, u, n u, v, v^2 with d = V - v_mc, v = v_mc."""
    truth = states["v_mc"].to_numpy(np.float64)
    noise = states["v_se"].to_numpy(np.float64) ** 2
    error = values - truth
    single = states["n"].to_numpy(np.float64) * noise
    return [np.ones(len(states)), error, error**2, noise, single, truth, truth**2]


def ratios(found: Joint) -> dict[str, Figure]:
    """The named figures of a ``base`` (or of one that was transformed)."""
    centred = found.ratio(CENTRED, VARIANCE)
    return {
        "bias": found.linear(BIAS),
        "mse": found.linear(MSE),
        "variance": found.linear(VARIANCE),
        "return_variance": found.linear(NOISE),
        "share_explained": _one_minus(found.ratio(MSE, VARIANCE)),
        "share_centred": _one_minus(centred),
        "explained_variance": found.ratio(VARIANCE - CENTRED, VARIANCE + NOISE),
        "explained_variance_ceiling": found.ratio(VARIANCE, VARIANCE + NOISE),
        "worth_in_rollouts": worth(found, MSE),
        "constant_worth": worth(found, VARIANCE),
    }


def worth(found: Joint, error: Floats) -> Figure:
    """Continuations a state whose mean has this error: inverse of error / mean(n u).

    All None where mean(n u) is 0: a single continuation is then the truth. The upper bound is None
    where the error cannot be told from 0, and the value too where its estimate is not above 0.
    """
    return inverted(found.ratio(error, NOISE))


def sizes(states: pd.DataFrame) -> dict[str, int]:
    """How many states and problems the figures come from."""
    return {"states": len(states), "problems": int(states["prompt_index"].nunique())}


def spearman(states: pd.DataFrame, values: Floats) -> Figure:
    """Spearman's rho of values and v_mc over states; undefined where one of them is constant."""
    return correlation(values, states["v_mc"].to_numpy(np.float64), states)


def correlation(first: Floats, second: Floats, states: pd.DataFrame) -> Figure:
    """Spearman's rho (scipy's ``spearmanr``) of two columns, its interval over problems."""

    first, second = np.round(first, 12), np.round(second, 12)  # sums in another order still tie

    def rho(rows: NDArray[np.bool_]) -> float:
        x, y = first[rows], second[rows]
        if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
            return float("nan")
        return float(stats.spearmanr(x, y).statistic)

    return jackknife_scalar(rho, truth_table.clusters(states))


def half_means(
    states: pd.DataFrame,
    continuations: pd.DataFrame,
    gamma: float = 1.0,
    first: int | None = None,
) -> list[Floats]:
    """v_mc of each state from two disjoint parts of its continuations, each ``(states,)``.

    Args:
        first: continuations in the first part; None: half of them.

    Raises:
        ValueError: a state has no continuation in one of the parts.
    """
    found = [
        truth_table.estimates(part, gamma)["v_mc"].reindex(states["state"]).to_numpy(np.float64)
        for part in truth_table.parts(continuations, first)
    ]
    if any(np.isnan(part).any() for part in found):
        raise ValueError("a state has too few continuations for two parts")
    return found


def of_totals(totals: Floats) -> Floats:
    """The five figures of a ``base`` from totals of its columns, ``(..., 7)`` to ``(..., 5)``."""
    error, square, noise, single, truth, truth_square = np.moveaxis(
        totals[..., 1:7] / totals[..., :1], -1, 0
    )
    mse = square - noise
    variance = truth_square - truth**2 - noise
    return np.stack([error, mse, mse - error**2, variance, single], axis=-1)


def _one_minus(ratio: Figure) -> Figure:
    def less(number: float | None) -> float | None:
        return None if number is None else 1.0 - number

    return {
        "value": less(ratio["value"]),
        "low": less(ratio["high"]),
        "high": less(ratio["low"]),
    }


def checked(states: pd.DataFrame, values: Floats) -> Floats:
    """The values as floats; raises ValueError as ``figures`` does."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (len(states),):
        raise ValueError(f"{len(states)} states, but values of shape {values.shape}")
    if not np.all(np.isfinite(values)):
        raise ValueError("a critic's value is not finite")
    if not np.all(np.isfinite(states[["v_mc", "v_se"]].to_numpy(np.float64))):
        raise ValueError("a state has fewer than two continuations: its error is unknown")
    return values
