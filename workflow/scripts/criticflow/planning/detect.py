"""The smallest difference between two runs that a study can detect, before it is run."""

from __future__ import annotations

from criticflow.config import Config
from criticflow.config.contrasts import Contrast
from criticflow.stats.crossed import Components
from criticflow.stats.power import detectable

ASSUMED_SEED_SD = 0.03
"""Standard deviation between seeds of the difference of two runs, both trained."""
ASSUMED_PROBLEM_VARIANCE = 0.02
"""Variance between problems of the same difference: some problems gain and others lose."""
ASSUMED_REST_VARIANCE = 0.05
ASSUMED_SAMPLE_VARIANCE = 0.30
"""Of one sample's outcome in each run: a problem solved half of the time varies by 0.25 in each,
the average one less. Greedy answers of two trained actors differ on about as many problems."""


def assumed(config: Config, contrast: Contrast) -> Components:
    """Variances of a difference of pass rates, where nothing is measured yet."""
    samples = 1 if contrast.metric.startswith("greedy.") else config.evaluate.n
    rest = ASSUMED_REST_VARIANCE + ASSUMED_SAMPLE_VARIANCE / samples
    return Components(ASSUMED_SEED_SD**2, ASSUMED_PROBLEM_VARIANCE, rest)


def common_seeds(config: Config, contrast: Contrast) -> list[int]:
    """Seeds that both runs are trained with: a contrast is paired on them."""
    second = set(config.seeds_of(contrast.b))
    return [seed for seed in config.seeds_of(contrast.a) if seed in second]


def problems(config: Config, contrast: Contrast) -> int | None:
    """Test problems that the actors of both runs answer; None: as many as the source has."""
    test = config.tasks[config.runs[contrast.a].task].split.test
    limits = [limit for limit in (test, config.evaluate.prompts) if limit is not None]
    return min(limits) if limits else None


def smallest_difference(
    config: Config, contrast: Contrast, variances: Components, problem_count: int
) -> float | None:
    """In units of the metric, at 80 % power and 0.05; None with a single seed.

    A secondary contrast is tested at a stricter level (Holm), so it can detect a little less.
    """
    seeds = len(common_seeds(config, contrast))
    return detectable(variances, seeds, problem_count) if min(seeds, problem_count) > 1 else None
