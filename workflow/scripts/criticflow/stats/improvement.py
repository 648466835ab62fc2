"""Probability of improvement: how often a training of one arm beats one of another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from criticflow.stats.intervals import CONFIDENCE, Figure, figure

FEWEST = 3
"""Trainings of each arm below which no interval is given."""


def probability_of_improvement(
    first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE
) -> Figure:
    """``P(X > Y) + P(X = Y) / 2`` for a training X of the first arm and Y of the second.

    The mean over all pairs of trainings, for one task, as in rliable (Agarwal et al. 2021, section
    4.3; the statistic of Mann and Whitney over the number of pairs). Its bounds are the
    probabilities q that the estimate does not contradict, ``|estimate - q| <= t sqrt(Var(q))``,
    with the variance of Hanley and McNeil (1982) in the form of Newcombe (2006, method 5). t has
    ``m + n - 2`` degrees of freedom and takes the place of the normal's bound, since with three
    trainings each the arms are completely separated in one null study of ten. Measured coverage: 97
    to 100 % with 3 seeds, 97 to 99 % with 5, 97 to 98 % with 10; more where equal seeds make the
    arms alike. It speaks of new trainings on the same problems, and of order alone: it does not
    tell how large a difference is.

    Args:
        first, second: the score of each training (its mean over problems), ``(m,)`` and ``(n,)``.

    Returns:
        No bounds with fewer than three trainings of an arm.
    """
    one = np.round(np.asarray(first, dtype=np.float64), 12)
    other = np.round(np.asarray(second, dtype=np.float64), 12)
    if not one.size or not other.size:
        raise ValueError("the probability of improvement needs a training of each arm")
    pairs = (np.sign(one[:, None] - other[None, :]) + 1) / 2
    value = float(pairs.mean())
    if min(one.size, other.size) < FEWEST:
        return figure(value)
    edge = float(stats.t.ppf((1 + confidence) / 2, one.size + other.size - 2))
    middle = (one.size + other.size) / 2 - 1

    def variance(q: float) -> float:
        return (
            q * (1 - q) * (1 + middle * ((1 - q) / (2 - q) + q / (1 + q))) / one.size / other.size
        )

    def beyond(q: float) -> float:
        return (q - value) ** 2 - edge**2 * variance(q)

    # At 0 and 1 the variance is 0: an estimate there is inside, any other outside.
    inside = min(max(value, 1e-9), 1 - 1e-9)
    low = 0.0 if value == 0 else float(optimize.brentq(beyond, 0.0, inside))
    high = 1.0 if value == 1 else float(optimize.brentq(beyond, inside, 1.0))
    return figure(value, low, high)
