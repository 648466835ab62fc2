"""The Monte-Carlo truth of states as tables: returns, means, errors, disjoint parts.

V^pi(s) is the expected task score from state s (a prompt and a prefix of a response) under actor pi
at the rollout temperature. ``continuations`` has one row a continuation (``state, score, length``),
``states`` one row a state (``state, prompt_index, position, n, v_mc, v_se``): ``v_mc`` is the mean
of n returns, ``v_se**2`` their unbiased sample variance over n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

POSITIONS = 12  # more distinct positions than this are shown in bins
BINS = 10


def returns(continuations: pd.DataFrame, gamma: float = 1.0) -> Floats:
    """Return G of each continuation: ``gamma ** (length - 1) * score``, shape ``(rows,)``.

    The score is paid with the last of the ``length`` tokens that remain, as in verl, where the
    return of the last token is its own reward.
    """
    score = continuations["score"].to_numpy(np.float64)
    if gamma == 1.0:
        return score
    remaining = np.maximum(continuations["length"].to_numpy(np.float64) - 1, 0)
    return score * gamma**remaining


def estimates(continuations: pd.DataFrame, gamma: float = 1.0) -> pd.DataFrame:
    """``n, v_mc, v_se`` of each state, indexed by ``state``.

    ``v_se`` is nan where a state has one continuation: its error cannot be estimated.
    """
    groups = pd.Series(returns(continuations, gamma)).groupby(continuations["state"].to_numpy())
    table = pd.DataFrame({"n": groups.size(), "v_mc": groups.mean()})
    table["v_se"] = np.sqrt(groups.var(ddof=1) / table["n"])
    return table.rename_axis("state")


def with_truth(
    states: pd.DataFrame, continuations: pd.DataFrame, gamma: float = 1.0
) -> pd.DataFrame:
    """The states with ``n, v_mc, v_se`` computed from these continuations."""
    found = estimates(continuations, gamma).reindex(states["state"])
    return states.assign(**{name: found[name].to_numpy() for name in ("n", "v_mc", "v_se")})


def scaled(states: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The truth of returns that are multiplied by ``factor``.

    A critic that learned while a share m of the rewards was masked, and the rest not rescaled,
    estimates ``(1 - m) V^pi``: compare it with ``scaled(states, 1 - m)`` too.
    """
    return states.assign(v_mc=states["v_mc"] * factor, v_se=states["v_se"] * factor)


def parts(continuations: pd.DataFrame, first: int | None = None) -> tuple[pd.DataFrame, ...]:
    """Two disjoint parts of every state's continuations.

    Args:
        first: continuations in the first part, the rest in the second; None: every other one in
            each, so that both parts have half.
    """
    number = continuations.groupby("state", sort=False).cumcount().to_numpy()
    inside = number % 2 == 0 if first is None else number < first
    return continuations[inside], continuations[~inside]


def positions(states: pd.DataFrame) -> list[tuple[float, NDArray[np.bool_]]]:
    """Positions with the rows that have them, in ascending order.

    Where there are more than ``POSITIONS`` different ones, as at line ends, they are put into bins
    of a tenth of the response, each named by its middle.
    """
    place = states["position"].to_numpy(np.float64).round(9)
    if len(np.unique(place)) > POSITIONS:
        place = (np.clip((place * BINS).astype(np.int64), 0, BINS - 1) + 0.5) / BINS
    return [(float(value), place == value) for value in np.unique(place)]


def clusters(states: pd.DataFrame, by: Sequence[str] = ("prompt_index",)) -> NDArray[np.integer]:
    """Number of each row's problem, from 0, shape ``(rows,)``: the unit of every interval."""
    return states.groupby(list(by), sort=True).ngroup().to_numpy()
