"""Synthetic studies with known effects: how often intervals cover, and how often claims are false.

A study is a matrix of paired differences, drawn from the crossed model of ``crossed.py`` or as
right and wrong answers, which are not normal. The percentile bootstrap over seeds, which many
papers use, is here for comparison only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from criticflow.stats import crossed
from criticflow.stats.crossed import Components
from criticflow.stats.intervals import CONFIDENCE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """Shares of the studies: ``coverage``, whose interval holds the true effect; ``claims``, whose
    interval excludes zero; ``wrong_side``, whose claim has the wrong sign.

    Claims are false where the true effect is 0; elsewhere their share is the power.
    """

    coverage: float
    claims: float
    wrong_side: float


REALISTIC = Components(seed=0.02**2, problem=0.3**2, rest=0.4**2)
"""Differences in greedy pass@1 between two arms of a study like the default: the standard deviation
is 0.02 between seeds, 0.3 between problems, and 0.4 of one training's answer to one problem."""


def normal(
    effect: float, parts: Components, seeds: int, problems: int, studies: int, seed: int
) -> Floats:
    """Differences of studies under the crossed model, shape ``(studies, seeds, problems)``."""
    draw = np.random.default_rng(seed)
    return (
        effect
        + draw.normal(0, parts.seed**0.5, (studies, seeds, 1))
        + draw.normal(0, parts.problem**0.5, (studies, 1, problems))
        + draw.normal(0, parts.rest**0.5, (studies, seeds, problems))
    )


def answers(
    effect: float, seed_sd: float, seeds: int, problems: int, studies: int, seed: int
) -> Floats:
    """Differences of right (1) and wrong (0) answers, shape ``(studies, seeds, problems)``.

    A problem is solved with a chance that is uniform on 0.3 to 0.7, moved by up to 0.17 either way
    in each arm, by each training's own deviation (``seed_sd``) and by half of the effect.
    """
    draw = np.random.default_rng(seed)
    chance = draw.uniform(0.3, 0.7, (studies, 1, problems))
    solved = []
    for half in (effect / 2, -effect / 2):
        own = draw.uniform(-0.17, 0.17, (studies, 1, problems))
        run = draw.normal(0, seed_sd, (studies, seeds, 1))
        drawn = draw.random((studies, seeds, problems))
        solved.append(drawn < chance + own + run + half)
    return solved[0].astype(np.float64) - solved[1]


def rates(differences: Floats, effect: float, confidence: float = CONFIDENCE) -> Rates:
    """Rates of the crossed model's intervals on studies ``(studies, seeds, problems)``."""
    return _rates(*crossed.mean(differences).interval(confidence), effect)


def bootstrap_rates(
    differences: Floats,
    effect: float,
    seed: int,
    resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> Rates:
    """Rates of percentile bootstrap intervals over the seeds' means, for comparison."""
    draw = np.random.default_rng(seed)
    by_seed = differences.mean(axis=-1)
    count = by_seed.shape[-1]
    counts = draw.multinomial(count, np.full(count, 1 / count), size=resamples) / count
    tail = (1 - confidence) / 2
    low, high = np.quantile(by_seed @ counts.T, [tail, 1 - tail], axis=-1)
    return _rates(low, high, effect)


def _rates(low: Floats, high: Floats, effect: float) -> Rates:
    above, below = low > 0, high < 0
    return Rates(
        coverage=float(np.mean((low <= effect) & (effect <= high))),
        claims=float(np.mean(above | below)),
        wrong_side=float(np.mean(above if effect < 0 else below)) if effect else 0.0,
    )
