"""Why a critic is wrong about an actor that has moved on: values drifted, or states shifted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import truth_table, value_truth
from criticflow.stats.intervals import Figure, cluster_sums, jackknife

Floats = NDArray[np.float64]


def mean_of_tokens(prompts: NDArray[np.integer], found: Sequence[Floats]) -> Figure:
    """The mean over all tokens of all responses, with its interval over problems.

    Args:
        prompts: the problem of each response, ``(responses,)``.
        found: a number for each token, by response.

    Raises:
        ValueError: fewer than two problems.
    """
    problem = np.unique(prompts, return_inverse=True)[1]
    sums = cluster_sums(problem, [[len(row) for row in found], [np.sum(row) for row in found]])
    return jackknife(sums, lambda totals: totals[..., 1:] / totals[..., :1]).linear([1])


def drift_and_shift(
    old: pd.DataFrame,
    drifted: pd.DataFrame,
    new: pd.DataFrame,
    values: Floats,
    new_values: Floats,
) -> dict[str, Figure]:
    """One critic's squared error on an old and a new actor, and its change in two parts.

    - ``old``: mse on the old actor's states against the old actor's truth
    - ``drift``: mse on the same states against the new actor's truth, less ``old``: the same
      prefixes have other values now
    - ``shift``: mse on the new actor's states less mse on the old states, both against the new
      actor's truth: the new actor comes to other prefixes
    - ``new = old + drift + shift``

    Squared errors are compared, not shares explained, because the actors' variances differ.

    Args:
        old: the old actor's states with its truth (``truth_table``).
        drifted: the same states, in the same order, with the new actor's truth.
        new: the new actor's states with its truth, on the same problems.
        values: the critic's, of the old states; ``new_values`` of the new ones.

    Raises:
        ValueError: ``drifted`` has other states than ``old``; ``new`` has other problems.
    """
    if not np.array_equal(old["state"], drifted["state"]):
        raise ValueError("the new actor's truth must be of the old actor's states, in their order")
    problems = np.unique(old["prompt_index"])
    if not np.array_equal(problems, np.unique(new["prompt_index"])):
        raise ValueError("the two actors' states must be of the same problems")
    parts = []
    for states, guess in ((old, values), (drifted, values), (new, new_values)):
        guess = value_truth.checked(states, guess)
        error = (guess - states["v_mc"].to_numpy(np.float64)) ** 2
        unbiased = error - states["v_se"].to_numpy(np.float64) ** 2
        number = truth_table.clusters(states)
        parts.append(cluster_sums(number, [np.ones(len(states)), unbiased]))

    def errors(totals: Floats) -> Floats:
        return totals[..., 1::2] / totals[..., ::2]

    found = jackknife(np.concatenate(parts, axis=1), errors)
    return {
        "old": found.linear([1, 0, 0]),
        "drift": found.linear([-1, 1, 0]),
        "shift": found.linear([0, -1, 1]),
        "new": found.linear([0, 0, 1]),
    }
