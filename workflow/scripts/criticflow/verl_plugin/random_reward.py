"""A control run: rewards that do not depend on the response.

    r~_i,t = k_i,t + [t = T_i] z_i     z_i ~ Bernoulli(p)     p = ``algorithm.random_reward``

k_i,t is the KL penalty where there is one in the reward (r_i,t less the score), T_i the last
response token of trajectory i. Only r changes, before any mask; the scores
(``token_level_scores``, ``critic/score/*``) stay true. If this run gains as much as another,
the reward is not the reason for the gain.

z_i is a function of (seed, step, trajectory) alone, as the mask is, and independent of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from criticflow.verl_plugin.reward_mask import uniform
from criticflow.verl_plugin.settings import RandomRewardSettings


def random_outcomes(
    settings: RandomRewardSettings, step: int, trajectories: Sequence[str]
) -> np.ndarray:
    """z_i of each trajectory, float32 (batch,): 0 or 1; equal identities have equal outcomes."""
    # The prefix keeps the draws apart from the mask's, whatever the two seeds are.
    draws = [uniform(settings.seed, step, f"reward/{name}") for name in trajectories]
    return (np.array(draws) < settings.probability).astype(np.float32)


def with_random_outcomes(
    rewards: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor, outcomes: np.ndarray
) -> torch.Tensor:
    """The rewards with z_i in place of the score.

    Args:
        rewards: token-level rewards after any KL penalty, (batch, tokens).
        scores: token-level scores, (batch, tokens).
        mask: 1 on response tokens, (batch, tokens).
        outcomes: z_i, (batch,).
    """
    positions = torch.arange(mask.shape[1]) * (mask > 0)
    last = positions.argmax(dim=-1, keepdim=True)
    placed = torch.zeros_like(rewards)
    placed.scatter_(1, last, placed.new_tensor(outcomes).unsqueeze(-1))
    return (rewards - scores) + placed
