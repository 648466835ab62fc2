"""Intervals for figures of few clusters (problems): the jackknife, and Fieller's for ratios.

A figure of a critic is a mean over states, a variance, or a ratio of such. The states of one
problem are not independent, so problems are the units: every figure is a function of totals over
problems, and leaving out one problem after the other tells how far it can be trusted. Beyond
``GROUPS`` problems, groups of them are left out. The percentile bootstrap is not used: with few
units it covers too little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Figure = dict[str, float | None]
"""``{"value", "low", "high"}``: a figure and its confidence interval; None where undefined."""

CONFIDENCE = 0.95
UNDEFINED: Figure = {"value": None, "low": None, "high": None}

GROUPS = 300
"""Most clusters that are left out one by one: the cost grows with the square of their number."""


def figure(value: float, low: float | None = None, high: float | None = None) -> Figure:
    """A figure as rows of results have it: plain floats, None for what is not finite."""
    return {"value": _finite(value), "low": _finite(low), "high": _finite(high)}


def exact(value: float) -> Figure:
    """A figure that is known, not estimated."""
    return figure(value, value, value)


@dataclass(frozen=True)
class Joint:
    """Estimates of several figures and the covariance of their errors.

    Attributes:
        mean: shape ``(figures,)``.
        covariance: of the means, shape ``(figures, figures)``.
        df: degrees of freedom of the covariance (clusters - 1).
    """

    mean: Floats
    covariance: Floats
    df: float

    def transformed(self, matrix: ArrayLike) -> Joint:
        """Other figures that are linear in these: ``matrix`` has shape ``(new, figures)``."""
        matrix = np.asarray(matrix, dtype=np.float64)
        return Joint(matrix @ self.mean, matrix @ self.covariance @ matrix.T, self.df)

    def linear(self, weights: ArrayLike, confidence: float = CONFIDENCE) -> Figure:
        """``weights @ figures`` with its interval by Student's t."""
        weights = np.asarray(weights, dtype=np.float64)
        value = float(weights @ self.mean)
        half = _t(self.df, confidence) * np.sqrt(max(0.0, weights @ self.covariance @ weights))
        return figure(value, value - half, value + half)

    def ratio(self, top: ArrayLike, bottom: ArrayLike, confidence: float = CONFIDENCE) -> Figure:
        """``(top @ figures) / (bottom @ figures)`` with Fieller's interval.

        No bounds where the bottom's own interval holds zero: any ratio is possible then. No value
        where the bottom is not above zero.
        """
        top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
        above, below = float(top @ self.mean), float(bottom @ self.mean)
        if not below > _dust(self.mean):
            return dict(UNDEFINED)
        low, high = fieller(
            above,
            below,
            float(top @ self.covariance @ top),
            float(bottom @ self.covariance @ bottom),
            float(top @ self.covariance @ bottom),
            _t(self.df, confidence),
        )
        return figure(above / below, low, high)


def jackknife(sums: ArrayLike, figures: Callable[[Floats], Floats]) -> Joint:
    """Figures of totals over clusters, bias removed, with the covariance of their errors.

    Pseudo-values ``P f - (P - 1) f_(-p)`` (Quenouille 1949; Tukey 1958): their mean is the estimate
    (without bias for means and variances when clusters are of equal size), their covariance over P
    that of the estimate. It knows the linear part of a figure only; where that vanishes (the share
    that a nearly constant critic explains) it is too small, so the quadratic part is added, the sum
    over p < q of ``Q_pq Q_pq' / P^2``, ``Q_pq = P f - (P - 1)(f_(-p) + f_(-q)) + (P - 2) f_(-pq)``
    (Efron and Stein 1981, equation 4.1). It is 0 for a mean.

    Args:
        sums: totals of each cluster, shape ``(clusters, columns)``.
        figures: totals over clusters ``(..., columns)`` to figures ``(..., figures)``.

    Raises:
        ValueError: fewer than two clusters.
    """
    sums = _grouped(np.asarray(sums, dtype=np.float64))
    count = len(sums)
    if count < 2:
        raise ValueError("an interval needs at least two problems")
    total = sums.sum(axis=0)
    whole, without = figures(total), figures(total - sums)
    pseudo = count * whole - (count - 1) * without
    mean = pseudo.mean(axis=0)
    errors = pseudo - mean
    covariance = errors.T @ errors / (count - 1) / count
    if count > 3:
        one, other = np.triu_indices(count, 1)
        both = figures(total - sums[one] - sums[other])
        second = count * whole - (count - 1) * (without[one] + without[other]) + (count - 2) * both
        covariance = covariance + second.T @ second / count**2
    return Joint(mean, covariance, count - 1)


def jackknife_scalar(
    estimate: Callable[[NDArray[np.bool_]], float],
    clusters: NDArray[np.integer],
    confidence: float = CONFIDENCE,
) -> Figure:
    """A correlation with its interval: delete-one jackknife on Fisher's scale (arctanh), t.

    Args:
        estimate: rows to keep, shape ``(rows,)``, to a correlation in -1..1; nan if undefined.
        clusters: the cluster of each row, shape ``(rows,)``.
    """
    groups = np.unique(clusters, return_inverse=True)[1] % GROUPS
    names = np.unique(groups)
    value = estimate(np.ones(len(clusters), dtype=bool))
    if len(names) < 3 or not np.isfinite(value):
        return figure(value)
    edge = 1 - 1e-12  # arctanh(1) is infinite

    def scaled(rho: float) -> float:
        return float(np.arctanh(np.clip(rho, -edge, edge)))

    left = np.array([scaled(estimate(groups != name)) for name in names])
    pseudo = len(names) * scaled(value) - (len(names) - 1) * left
    if not np.all(np.isfinite(pseudo)):
        return figure(value)
    half = _t(len(names) - 1, confidence) * np.std(pseudo, ddof=1) / np.sqrt(len(names))
    centre = scaled(value)
    return figure(value, float(np.tanh(centre - half)), float(np.tanh(centre + half)))


def single(found: Joint) -> Figure:
    """The only figure of a Joint; undefined where it, or it without some cluster, is."""
    known = np.all(np.isfinite(found.mean)) and np.all(np.isfinite(found.covariance))
    return found.linear([1]) if known else dict(UNDEFINED)


def fieller(
    top: float, bottom: float, var_top: float, var_bottom: float, cov: float, t: float
) -> tuple[float | None, float | None]:
    """Bounds of ``top / bottom``: all r that ``(top - r bottom)^2 <= t^2 Var(top - r bottom)``.

    Fieller (1954), "Some problems in interval estimation". ``(None, None)`` where the set has no
    bounds, which is where ``bottom`` is not told from zero.
    """
    square = bottom**2 - t**2 * var_bottom
    if not square > 0:
        return None, None
    middle = top * bottom - t**2 * cov
    rest = top**2 - t**2 * var_top
    root = np.sqrt(max(0.0, middle**2 - square * rest))
    return float((middle - root) / square), float((middle + root) / square)


def inverted(ratio: Figure) -> Figure:
    """One over a positive ratio: bounds change places, and one that is not above 0 has no inverse.

    A ratio whose lower bound is at or below zero has an inverse without an upper bound: None.
    """

    def one_over(number: float | None) -> float | None:
        return 1 / number if number is not None and number > 0 else None

    return {
        "value": one_over(ratio["value"]),
        "low": one_over(ratio["high"]),
        "high": one_over(ratio["low"]),
    }


def cluster_sums(
    clusters: NDArray[np.integer], columns: Sequence[ArrayLike], count: int | None = None
) -> Floats:
    """Sums of the columns over the rows of each cluster, shape ``(clusters, columns)``.

    Args:
        clusters: number of each row's cluster, from 0.
        columns: each of shape ``(rows,)``.
    """
    size = int(clusters.max()) + 1 if count is None else count
    return np.stack(
        [np.bincount(clusters, np.asarray(column, np.float64), size) for column in columns], axis=1
    )


def _grouped(sums: Floats) -> Floats:
    """At most ``GROUPS`` clusters: every GROUPS-th one together."""
    if len(sums) <= GROUPS:
        return sums
    return np.stack([sums[start::GROUPS].sum(axis=0) for start in range(GROUPS)])


def _t(df: float, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, df))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _dust(values: Floats) -> float:
    """The size that rounding errors may give to a zero among such numbers."""
    return 1e-12 * max(1.0, float(np.max(np.abs(values))))
