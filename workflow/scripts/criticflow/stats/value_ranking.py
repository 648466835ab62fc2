"""Does a critic choose the best of several next pieces of a response?

From each state m next pieces (tokens or steps) are sampled, duplicates removed; the truth of the
state behind each is estimated by continuations in two disjoint parts, a and b. Part a names the
best piece, part b says what the best and the critic's choice are worth, then the parts change
places: no choice is judged by the continuations that it was made with. Since a's best is not always
the best, regret is a lower bound of the regret against the best piece, the same for every critic.

Monte Carlo with k continuations ranks the same pieces by k others (:func:`of_monte_carlo`). They
are kept from the judging of critics too, so that all rows of a table have the same judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import truth_table
from criticflow.stats.intervals import Figure, cluster_sums, jackknife

Floats = NDArray[np.float64]

Pieces = tuple[pd.DataFrame, pd.DataFrame]
"""Next pieces and the continuations from behind them: ``pieces.parquet``,
``piece_continuations.parquet``."""

Choices = tuple[pd.DataFrame, Floats]
"""Pieces with their truth (:func:`pieces_truth`), and the value of each that the choice is by."""

_COLUMNS = ("regret", "regret_chance", "top1", "top1_chance")


def kept_to_choose(continuations: pd.DataFrame, ks: Sequence[int]) -> int:
    """How many of each piece's continuations Monte Carlo chooses by at most: the largest k that
    leaves as many to judge, and two; 0: none does."""
    least = int(continuations.groupby("state").size().min())
    return max((k for k in ks if k <= least / 2 and least - k >= 2), default=0)


def of_values(found: Pieces, values: Floats, gamma: float, ks: Sequence[int]) -> Choices | None:
    """A critic's choices; None where fewer than two problems have one.

    Args:
        values: V of the states behind the pieces, ``(pieces,)``.
        ks: Monte Carlo's, whose continuations do not judge.
    """
    pieces, continuations = found
    if not has_choices(pieces):
        return None
    held = kept_to_choose(continuations, ks)
    judged = pieces_truth(pieces, continuations, gamma=gamma, held=held)
    return judged, values * gamma ** pieces["length"].to_numpy()


def of_monte_carlo(found: Pieces, k: int, gamma: float, ks: Sequence[int]) -> Choices | None:
    """Choices by the mean of k continuations, judged as critics are; None also where too few would
    be left to judge."""
    pieces, continuations = found
    if not has_choices(pieces) or k > (held := kept_to_choose(continuations, ks)):
        return None
    judged = pieces_truth(pieces, continuations, k, gamma, held)
    return judged, judged["monte_carlo"].to_numpy()


def from_states(choices: Choices, states: NDArray[np.integer]) -> dict[str, Any] | None:
    """``ranking`` of the pieces that continue these states; None where fewer than two problems have
    a choice among them."""
    judged, values = choices
    rows = judged["parent"].isin(states).to_numpy()
    return ranking(judged[rows], values[rows]) if has_choices(judged[rows]) else None


def has_choices(pieces: pd.DataFrame) -> bool:
    """Whether two problems have a state with two pieces."""
    size = pieces.groupby(["prompt_index", "parent"])["state"].transform("size")
    return pieces.loc[size > 1, "prompt_index"].nunique() >= 2


def pieces_truth(
    pieces: pd.DataFrame,
    continuations: pd.DataFrame,
    k: int = 0,
    gamma: float = 1.0,
    held: int | None = None,
) -> pd.DataFrame:
    """The pieces with ``v_a`` and ``v_b``, means of two disjoint parts of their continuations.

    With k > 0 also ``monte_carlo``, the mean of k further continuations: the value that Monte Carlo
    ranks by, disjoint from the truth's.

    Args:
        pieces: ``state`` (the state behind the piece), one row a piece; other columns are kept.
            With a discount ``length``, the tokens of the piece, by which all three are discounted.
        continuations: ``state, score, length`` from those states.
        held: so many continuations, at least k, do not judge; None: k.

    Raises:
        ValueError: a piece has too few continuations.
    """
    chooser, judges = truth_table.parts(continuations, k if held is None else held)
    chooser = truth_table.parts(chooser, k)[0]
    columns = {
        name: truth_table.estimates(part, gamma)["v_mc"]
        for name, part in zip(("v_a", "v_b"), truth_table.parts(judges), strict=True)
    }
    if k:
        columns["monte_carlo"] = truth_table.estimates(chooser, gamma)["v_mc"]
    found = {
        name: column.reindex(pieces["state"]).to_numpy(np.float64)
        for name, column in columns.items()
    }
    if any(np.isnan(column).any() for column in found.values()):
        raise ValueError(f"a piece has too few continuations: {k} to choose and two to judge")
    if gamma != 1.0:
        discount = gamma ** pieces["length"].to_numpy()
        found = {name: column * discount for name, column in found.items()}
    return pieces.assign(**found)


def ranking(pieces: pd.DataFrame, values: Floats) -> dict[str, Any]:
    """Regret and top-1 of the piece with the highest value, beside those of a choice by chance.

    - ``regret``: value of the best piece minus that of the chosen one, mean over states
    - ``regret_chance``: the same for a choice by chance among the state's pieces
    - ``regret_share``: regret / regret_chance: 1 for chance, 0 for always the best
    - ``top1``: how often the best piece is chosen; ``top1_chance``: 1 / m

    Of pieces with equal values each is chosen with equal chance, so a constant critic has the
    figures of chance. States with a single piece are left out.

    Args:
        pieces: one row a piece: ``prompt_index, parent`` (the state it continues), ``v_a, v_b``.
        values: of the states behind the pieces, shape ``(pieces,)``.

    Raises:
        ValueError: fewer than two problems have a state with two pieces.
    """
    table = pieces.assign(value=np.asarray(values, dtype=np.float64))
    parent = table.groupby(["prompt_index", "parent"])["value"].transform("size")
    table = table[parent > 1]
    if table["prompt_index"].nunique() < 2:
        raise ValueError("ranking needs two problems with a state of at least two pieces")
    owner = table.groupby(["prompt_index", "parent"], sort=True).ngroup().to_numpy()
    first, second = (table[name].to_numpy(np.float64) for name in ("v_a", "v_b"))
    chosen = _shares(table["value"].to_numpy(np.float64), owner)
    one, other = _one_way(chosen, first, second, owner), _one_way(chosen, second, first, owner)
    per_state = (one + other) / 2
    starts = np.unique(owner, return_index=True)[1]
    problem = truth_table.clusters(table.iloc[starts])
    sums = cluster_sums(problem, [np.ones(len(starts)), *per_state.T])
    found = jackknife(sums, lambda totals: totals[..., 1:] / totals[..., :1])
    figures: dict[str, Figure] = {
        name: found.linear(np.eye(4)[number]) for number, name in enumerate(_COLUMNS)
    }
    return {
        **figures,
        "regret_share": found.ratio(np.eye(4)[0], np.eye(4)[1]),
        "states": len(starts),
        "problems": int(problem.max()) + 1,
    }


def _one_way(chosen: Floats, names: Floats, judges: Floats, owner: NDArray[np.integer]) -> Floats:
    """Per state: regret, chance's regret, top-1, chance's top-1, shape ``(states, 4)``."""
    best = _shares(names, owner)
    size = np.bincount(owner)

    def total(column: Floats) -> Floats:
        return np.bincount(owner, column)

    top = total(best * judges)
    return np.stack(
        [
            top - total(chosen * judges),
            top - total(judges) / size,
            total(chosen * best),
            1 / size,
        ],
        axis=1,
    )


def _shares(values: Floats, owner: NDArray[np.integer]) -> Floats:
    """The chance with which each row is its state's choice: 1 over the number of highest rows."""
    values = np.round(values, 12)  # sums in another order still tie
    highest = np.full(int(owner.max()) + 1, -np.inf)
    np.maximum.at(highest, owner, values)
    at_top = (values == highest[owner]).astype(np.float64)
    return at_top / np.bincount(owner, at_top)[owner]
