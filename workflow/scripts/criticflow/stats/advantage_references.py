"""What the advantages of a critic are compared with: baselines that need no critic's knowledge.

Each gives a value before every audited token, and the continuations that say what is true there,
from which those are taken away that the value was made of. :mod:`advantage_audit` judges all alike.

- ``constant``: the mean of v_mc, the floor.
- ``position``: the mean of v_mc before the same token (the first, the second, ...) of the responses
  to other problems.
- ``prompt_mean``: the mean score of other responses to the prompt, the baseline of RLOO and GRPO:
  half of the continuations from before the first token. The other half is the truth there.
- ``shuffled``: the critic's own values, each response with those of the next one.
- ``monte_carlo``: the mean of k continuations, judged by the others.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import truth_table, value_references

Floats = NDArray[np.float64]

Audited = tuple[pd.DataFrame, pd.DataFrame]
"""States before each token of some trajectories and the continuations from them:
``tokens.parquet``, ``token_continuations.parquet``."""


def constant(found: Audited, gamma: float = 1.0) -> Floats:
    """The mean of v_mc, before every token, ``(tokens,)``."""
    tokens = truth_table.with_truth(*found, gamma)
    return np.full(len(tokens), float(tokens["v_mc"].mean()))


def position(found: Audited, gamma: float = 1.0) -> Floats:
    """v_mc before tokens with the same number in responses to other problems, ``(tokens,)``.

    Numbers are put into tenths of the longest response where there are many of them
    (:func:`truth_table.positions`).
    """
    tokens = truth_table.with_truth(*found, gamma)
    place = tokens["token"] / max(int(tokens["token"].max()), 1)
    return value_references.position_values(tokens.assign(position=place))


def prompt_mean(found: Audited, gamma: float = 1.0) -> tuple[Audited, Floats] | None:
    """The mean of other responses to the prompt; None: a prompt has fewer than four.

    Returns:
        What is true, where half of the continuations from before the first tokens are left out, and
        the mean of that half before every token of the response.
    """
    tokens, continuations = found
    first = tokens[tokens["token"] == 0]
    at_first = continuations["state"].isin(first["state"])
    chosen, judging = truth_table.parts(continuations[at_first])
    if not len(judging) or int(judging.groupby("state").size().min()) < 2:
        return None
    mean = truth_table.estimates(chosen, gamma)["v_mc"].reindex(first["state"])
    of_response = pd.Series(mean.to_numpy(), index=first["trajectory"])
    kept = pd.concat([continuations[~at_first], judging])
    return (tokens, kept), of_response.reindex(tokens["trajectory"]).to_numpy(np.float64)


def monte_carlo(found: Audited, k: int, gamma: float = 1.0) -> tuple[Audited, Floats] | None:
    """The mean of k continuations before every token, and the others as the truth.

    None where fewer than k, or than two, would be left to judge.
    """
    tokens, continuations = found
    least = int(continuations.groupby("state").size().min())
    if least - k < max(k, 2):
        return None
    chosen, judging = truth_table.parts(continuations, k)
    mean = truth_table.estimates(chosen, gamma)["v_mc"]
    return (tokens, judging), mean.reindex(tokens["state"]).to_numpy(np.float64)


def shuffled(tokens: pd.DataFrame, values: Floats) -> Floats:
    """A critic's values at other responses: each has those of the next one, ``(tokens,)``.

    The responses lie on a circle in their order. Before token t the next one is the next of those
    that have a token t; where none other has, a response keeps its own value. So the values before
    the t-th tokens are the critic's own in another order, as with ``critic.shuffle`` in training.
    """
    values = np.asarray(values, dtype=np.float64)
    exchanged = values.copy()
    for rows in tokens.reset_index(drop=True).groupby("token").indices.values():
        exchanged[rows] = np.roll(values[rows], -1)
    return exchanged
