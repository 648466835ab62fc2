"""Masking whole trajectories' rewards.

    r~_i,t = b_i r_i,t           b_i ~ Bernoulli(1 - m)          (type ``bernoulli``)
    r~_i,t = b_i r_i,t           sum_i (1 - b_i) = round(m B)    (type ``fixed_ratio``)
    r~_i,t = b_i r_i,t / (1-m)   if rescaled, so that E[r~] = E[r]

r_i,t is the token-level reward of trajectory i after any KL penalty in the reward and before the
advantage. Only r changes: values, the batch, GAE, the clipped loss and the scores
(``token_level_scores``, ``critic/score/*``) do not. A group estimator (GRPO) sees the masked
rewards, so the mask comes before the group's baseline.

b_i is a function of (mask seed, step, trajectory) alone: whatever the order of the batch, the
number of ranks, other random draws or a resume in between, the same trajectories are masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from criticflow.verl_plugin.settings import RewardMaskSettings


def uniform(seed: int, step: int, trajectory: str) -> float:
    """A number in [0, 1), the same for the same arguments on every machine."""
    digest = hashlib.blake2b(f"{seed}/{step}/{trajectory}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def masked_trajectories(
    settings: RewardMaskSettings, step: int, trajectories: Sequence[str]
) -> np.ndarray:
    """Which trajectories lose their reward.

    Args:
        settings: ratio, type and seed.
        step: the global step.
        trajectories: identity of each trajectory; equal identities are masked together.

    Returns:
        Boolean array (batch,), True where the reward is masked.
    """
    draws = {name: uniform(settings.seed, step, name) for name in trajectories}
    if settings.type == "bernoulli":
        masked = {name for name, draw in draws.items() if draw < settings.ratio}
    else:
        count = int(np.floor(settings.ratio * len(draws) + 0.5))
        masked = set(sorted(draws, key=lambda name: (draws[name], name))[:count])
    return np.array([name in masked for name in trajectories], dtype=bool)


def reward_scale(settings: RewardMaskSettings, masked: np.ndarray) -> np.ndarray:
    """Factor of each trajectory's rewards, float32 (batch,): 0, or 1, or 1/(1-m)."""
    kept = 1.0 / (1.0 - settings.ratio) if settings.rescale else 1.0
    return np.where(masked, 0.0, kept).astype(np.float32)


def mask_metrics(
    settings: RewardMaskSettings, masked: np.ndarray, scores: np.ndarray
) -> dict[str, float]:
    """The metrics of a step: requested and actual ratio, count, true mean scores of both parts.

    Args:
        settings: the mask's settings.
        masked: boolean (batch,).
        scores: true score of each trajectory, (batch,). A part without members has no mean.
    """
    metrics = {
        "criticflow/reward_mask/requested_ratio": settings.ratio,
        "criticflow/reward_mask/actual_ratio": float(masked.mean()),
        "criticflow/reward_mask/num_masked": int(masked.sum()),
    }
    for part, members in (("masked", masked), ("unmasked", ~masked)):
        if members.any():
            metrics[f"criticflow/reward_mask/score_{part}"] = float(scores[members].mean())
    return metrics
