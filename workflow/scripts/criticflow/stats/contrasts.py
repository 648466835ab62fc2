"""Rows of ``results/contrasts.json``: differences between arms, their p, and what may be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from criticflow.stats import crossed, power
from criticflow.stats.improvement import probability_of_improvement
from criticflow.stats.intervals import UNDEFINED, Figure
from criticflow.stats.savings import share_of_oracle

Floats = NDArray[np.float64]
Row = dict[str, Any]

ALPHA = power.ALPHA
FEWEST_SEEDS = 3
"""With fewer seeds nothing is claimed."""


@dataclass(frozen=True)
class Contrast:
    """What is compared: ``a - b`` in ``metric``, of which a higher figure is better.

    A ``primary`` contrast is tested alone at 0.05, ``secondary`` ones together (Holm); a ``bundle``
    differs in several factors and answers no question about one of them. ``oracle`` is the arm that
    shows what a critic could be worth, where ``b`` is a constant.
    """

    name: str
    a: str
    b: str
    differs_in: str
    kind: Literal["primary", "secondary", "bundle"]
    metric: str
    oracle: str | None = None


def rows(
    contrasts: Sequence[Contrast],
    scores: Mapping[str, pd.DataFrame],
    smallest_effect: float | None = None,
) -> list[Row]:
    """One row per contrast, in the order given.

    Args:
        scores: by arm, one row a sample: ``seed, problem`` and a column named as the metric.
        smallest_effect: the smallest difference of interest, fixed beforehand, in units of the
            metric: undecided contrasts say how many seeds would detect it. None: they say what a
            new study of as many seeds would detect.

    Raises:
        ValueError: an arm has no scores, or two arms no common seeds or other problems.
    """
    found = [_compared(contrast, scores) for contrast in contrasts]
    secondary = [row for row in found if row["kind"] == "secondary" and row["p"] is not None]
    for row, adjusted in zip(secondary, holm([row["p"] for row in secondary]), strict=True):
        row["p_holm"] = adjusted
    return [{**row, "verdict": verdict(row, smallest_effect)} for row in found]


def difference(scores: ArrayLike) -> Row:
    """What the crossed model says of paired differences, shape ``(seeds, problems)``.

    ``difference``, ``p``, and the standard deviations between seeds, between problems and of the
    rest, in units of the metric; ``detectable``: the true difference that a new study of this size
    would see at 80 % power.
    """
    scores = np.asarray(scores, dtype=np.float64)
    found, parts = crossed.mean(scores), crossed.components(scores)
    seeds, problems = scores.shape
    return {
        "problems": problems,
        "difference": found.figure(),
        "p": None if parts is None else float(found.p_value()),
        "sd_seed": None if parts is None else parts.seed**0.5,
        "sd_problem": None if parts is None else parts.problem**0.5,
        "sd_rest": None if parts is None else parts.rest**0.5,
        "detectable": None if parts is None else power.detectable(parts, seeds, problems),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of several tests, in the order given: Holm (1979), the chance of any false claim.

    The i-th smallest of m is multiplied by ``m - i + 1``, and is at least its predecessor, at most
    1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def verdict(row: Row, smallest_effect: float | None = None) -> str:
    """The sentence that a row of ``rows`` allows, without its own key ``verdict``.

    "Better" or "worse" only where the 95 % interval excludes zero (a secondary contrast: and Holm's
    p is at most 0.05). "Small" where the interval lies within the smallest effect of interest on
    both sides: then no new study of that effect is asked for.
    """
    count, a, b, metric = len(row["seeds"]), row["a"], row["b"], row["metric"]
    if count < FEWEST_SEEDS or row["p"] is None:
        return f"no claim: {_seeds(count)}, a claim needs at least {FEWEST_SEEDS}"
    low, high = row["difference"]["low"], row["difference"]["high"]
    told = f"{row['difference']['value']:+.3f} [{low:+.3f}, {high:+.3f}] in {metric}"
    if row["kind"] == "bundle":
        return (
            f"{a} and {b} differ in several settings: {told}, which answers no question about "
            "any one of them"
        )
    excludes = low > 0 or high < 0
    if excludes and (row["kind"] == "primary" or row["p_holm"] <= ALPHA):
        word = "better" if low > 0 else "worse"
        return f"{word}: {a} against {b} {told} ({_seeds(count)})"
    if low == high == 0:
        return f"no difference was seen: {a} and {b} have equal scores on every problem and seed"
    after = " after Holm's correction" if excludes else ""
    if smallest_effect is not None and -smallest_effect < low and high < smallest_effect:
        return f"undecided{after}, and small: {told}, less than {smallest_effect:.3f} either way"
    return f"undecided{after}: {_new_study(row, count, smallest_effect)}"


def _new_study(row: Row, count: int, smallest_effect: float | None) -> str:
    """What a new study would need. It never asks for more seeds in this study: to add seeds until
    there is a claim would make false claims likely."""
    if smallest_effect is None:
        return f"a new study of {_seeds(count)} would detect {row['detectable']:.3f} at 80 % power"
    parts = crossed.Components(*(row[name] ** 2 for name in ("sd_seed", "sd_problem", "sd_rest")))
    needed = power.seeds_needed(smallest_effect, parts, row["problems"])
    if needed is None:
        return (
            f"no number of seeds would detect {smallest_effect:.3f} at 80 % power on "
            f"{row['problems']} problems"
        )
    return f"a new study of {_seeds(needed)} would detect {smallest_effect:.3f} at 80 % power"


def _compared(contrast: Contrast, scores: Mapping[str, pd.DataFrame]) -> Row:
    missing = [name for name in (contrast.a, contrast.b) if name not in scores]
    if missing:
        raise ValueError(f"contrast {contrast.name}: no scores of {', '.join(missing)}")
    first, second = scores[contrast.a], scores[contrast.b]
    differences, seeds = crossed.paired(first, second, contrast.metric)
    found = difference(differences)
    return {
        "name": contrast.name,
        "a": contrast.a,
        "b": contrast.b,
        "differs_in": contrast.differs_in,
        "kind": contrast.kind,
        "metric": contrast.metric,
        "seeds": seeds,
        "difference": found.pop("difference"),
        "probability_of_improvement": _improvement(first, second, seeds, contrast.metric),
        "p": found.pop("p"),
        "p_holm": None,
        **found,
        "oracle": contrast.oracle,
        "share_of_oracle": _share_of_oracle(contrast, scores),
    }


def _share_of_oracle(contrast: Contrast, scores: Mapping[str, pd.DataFrame]) -> Figure | None:
    """On the seeds that all three arms have; None: there is no oracle, or no gain to share."""
    if contrast.oracle is None:
        return None
    arms = {name: scores[name] for name in (contrast.a, contrast.b, contrast.oracle)}
    seeds = set.intersection(*(set(table["seed"]) for table in arms.values()))
    if len(seeds) < FEWEST_SEEDS:
        return None
    a, b, ceiling = (table[table["seed"].isin(seeds)] for table in arms.values())
    part, _ = crossed.paired(a, b, contrast.metric)
    whole, _ = crossed.paired(ceiling, b, contrast.metric)
    return share_of_oracle(part, whole)


def _improvement(
    first: pd.DataFrame, second: pd.DataFrame, seeds: list[int], metric: str
) -> Figure:
    """Over the trainings with the common seeds, each with its mean over problems."""
    if len(seeds) < 2:
        return dict(UNDEFINED)
    runs = []
    for table in (first, second):
        cells, names, _ = crossed.grid(table, metric)
        runs.append(cells[[names.index(seed) for seed in seeds]].mean(axis=1))
    return probability_of_improvement(*runs)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
