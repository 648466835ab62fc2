"""What a design of seeds and problems can detect (crossed model of ``crossed.py``)."""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats

from criticflow.stats.crossed import Components

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000
"""The search for a number of seeds ends here: nobody runs a study of more."""


def standard_error(components: Components, seeds: int, problems: int) -> tuple[float, float]:
    """Standard error of a mean difference, and its degrees of freedom, in a new study.

    ``SE^2 = seed / S + problem / P + rest / (S P)``; df is Satterthwaite's at the expected mean
    squares.

    Raises:
        ValueError: fewer than two seeds or problems: the study could not tell its own error.
    """
    if min(seeds, problems) < 2:
        raise ValueError(f"a design needs two seeds and two problems, not {seeds} and {problems}")
    of_seed = problems * components.seed + components.rest
    of_problem = seeds * components.problem + components.rest
    total = of_seed + of_problem - components.rest
    spread = (
        of_seed**2 / (seeds - 1)
        + of_problem**2 / (problems - 1)
        + components.rest**2 / ((seeds - 1) * (problems - 1))
    )
    df = total**2 / spread if spread > 0 else float(seeds - 1)
    return float(np.sqrt(total / (seeds * problems))), float(df)


def power(difference: float, components: Components, seeds: int, problems: int) -> float:
    """Chance that the two-sided t test at 0.05 sees this true difference (noncentral t)."""
    error, df = standard_error(components, seeds, problems)
    if error == 0:
        return 1.0 if difference else ALPHA
    return _exceeds(difference / error, df)


def detectable(components: Components, seeds: int, problems: int, wanted: float = POWER) -> float:
    """Smallest true difference that is seen with a chance of ``wanted``, in units of the score."""
    error, df = standard_error(components, seeds, problems)
    if error == 0:
        return 0.0
    high = 4.0
    while _exceeds(high, df) < wanted:
        high *= 2
    return error * float(optimize.brentq(lambda shift: _exceeds(shift, df) - wanted, 0.0, high))


def _exceeds(shift: float, df: float) -> float:
    """Chance that the t statistic, moved by ``shift`` standard errors, is beyond either bound."""
    edge, away = stats.t.isf(ALPHA / 2, df), abs(shift)
    right = float(stats.nct.sf(edge, df, away))
    # scipy has nan for some left tails that are too small to matter.
    left = float(np.nan_to_num(stats.nct.cdf(-edge, df, away))) if away < 5 else 0.0
    return right + left


def seeds_needed(
    difference: float, components: Components, problems: int, wanted: float = POWER
) -> int | None:
    """Fewest seeds (at least 3) with which ``difference`` is detectable; None where none suffice.

    More seeds do not help against problems that differ: on P problems the error never falls under
    ``sqrt(problem / P)``.
    """
    if not power(difference, components, MOST_SEEDS, problems) >= wanted:
        return None
    low, high = 2, MOST_SEEDS  # low is too few, or not allowed; high is enough
    while high - low > 1:
        middle = (low + high) // 2
        if power(difference, components, middle, problems) >= wanted:
            high = middle
        else:
            low = middle
    return high
