"""A control: a frozen critic's values go to PPO exchanged between the trajectories of a step.

    V'(s_i,t) = V(s_j,t)     j: the trajectory after i, in a random order of the step's trajectories
                             that is closed to a circle, among those that have written a token t

PPO then sees the distribution that the critic's values have at each position of a response, in this
batch, and no value says anything of the trajectory that it is given to. What a run with the critic
gains over this one is the worth of knowing the state at hand.

There is one order a step, so that as long as both last a trajectory has the values of one and the
same other; where that one has ended, the next longer one takes its place. Where a single trajectory
is left, no value can be exchanged, and it keeps its own (``criticflow/shuffled_values/kept`` is the
share of such tokens). What a dialogue has read, and what verl filled the batch up with, is left as
it is and lends nothing. With several responses to a prompt, the other may be one of them.

The order is a function of (seed, step, trajectory) alone, as the reward mask is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from criticflow.verl_plugin.reward_mask import uniform

KEPT = "criticflow/shuffled_values/kept"


def lenders(seed: int, step: int, keys: Sequence[str], own: np.ndarray) -> np.ndarray:
    """From which row of a batch each token has its value, (batch, tokens).

    Args:
        keys: verl's name of each trajectory.
        own: whether the trajectory has written the token, boolean (batch, tokens).
    """
    # The prefix keeps the draws apart from the mask's, whatever the two seeds are.
    draws = [uniform(seed, step, f"values/{key}") for key in keys]
    order = np.array(sorted(range(len(keys)), key=lambda row: (draws[row], keys[row])))
    rows = np.tile(np.arange(len(keys))[:, None], own.shape[1])
    for token in range(own.shape[1]):
        there = order[own[order, token]]
        rows[there, token] = np.roll(there, -1)
    return rows


def kept(rows: np.ndarray, own: np.ndarray) -> float:
    """Share of the written tokens that have their own value."""
    same = rows == np.arange(len(rows))[:, None]
    return float(same[own].mean()) if own.any() else 0.0
