"""Other uses of the critic's values in PPO than verl's one GAE (each is off by default).

verl computes advantages for the policy and returns for the critic in one call of GAE, both with the
same lambda (``algorithm.lam``). Here verl's own GAE function is called again with other arguments,
and its result replaces the advantages or the returns:

- ``algorithm.critic_lam``: the critic learns from returns with a lambda of its own (decoupled GAE:
  VC-PPO, arXiv 2503.01491; VAPO, arXiv 2504.05118). With 1 these are Monte-Carlo returns, which
  contain no values.
- ``algorithm.length_adaptive_alpha``: the policy's lambda of a response of l tokens is
  1 - 1 / (alpha l) (VAPO, section 4.2), not below 0.
- ``algorithm.value_gate``: while the values' explained variance of the batch's Monte-Carlo returns
  is below 0, the policy's baseline is the mean of these returns (after EVPO, arXiv 2604.19485). The
  critic learns as always.
- ``algorithm.reward_mask_drop``: trajectories that lose their reward leave the step as a whole,
  from the whitening of advantages to both losses, instead of counting as failures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_gae_advantage_return

from criticflow.verl_plugin.critic_metrics import monte_carlo_returns
from criticflow.verl_plugin.settings import AdvantageSettings

GATE = "criticflow/value_gate"
"""Metric: 1 in a step whose baseline was the mean of the returns, 0 in one that used the values."""


def recompute(batch: Any, settings: AdvantageSettings, real: np.ndarray) -> dict[str, float]:
    """Replace ``advantages`` and ``returns`` of a batch as the settings say, in place.

    Args:
        batch: ``token_level_rewards``, ``values``, ``response_mask``, ``advantages`` and
            ``returns``, each (batch, tokens), the last two by verl's GAE with ``settings.lam``.
        real: False where verl filled the batch up, (batch,).

    Returns:
        Metrics.
    """
    rewards, values = batch["token_level_rewards"], batch["values"]
    mask = batch["response_mask"]
    metrics: dict[str, float] = {}
    if settings.critic_lam is not None:
        _, batch["returns"] = compute_gae_advantage_return(
            rewards, values, mask, settings.gamma, settings.critic_lam
        )
    baseline = values
    if settings.value_gate:
        mean = gated_mean(
            rewards.float().numpy()[real],
            values.float().numpy()[real],
            mask.numpy()[real],
            settings.gamma,
        )
        metrics[GATE] = float(mean is not None)
        if mean is not None:
            baseline = torch.full_like(values, mean) * mask
    lam: Any = settings.lam
    if settings.length_adaptive_alpha is not None:
        lam = length_adaptive_lambda(mask.sum(dim=-1), settings.length_adaptive_alpha)
        lam = lam.to(values.dtype)
        metrics["criticflow/length_adaptive_lambda/mean"] = float(lam.numpy()[real].mean())
    if baseline is not values or settings.length_adaptive_alpha is not None:
        batch["advantages"], _ = compute_gae_advantage_return(
            rewards, baseline, mask, settings.gamma, lam
        )
    return metrics


def length_adaptive_lambda(lengths: torch.Tensor, alpha: float) -> torch.Tensor:
    """1 - 1 / (alpha l) for responses of l tokens, (batch,), not below 0."""
    return (1 - 1 / (alpha * lengths.clamp(min=1))).clamp(min=0.0)


def gated_mean(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float
) -> float | None:
    """The mean of the batch's Monte-Carlo returns, if it is a better baseline than the values.

    Returns:
        None where 1 - Var(G - V) / Var(G) is at least 0, or undefined.
    """
    inside = mask > 0
    returns = monte_carlo_returns(rewards, mask, gamma)[inside]
    left = (returns - values[inside]).var()
    return float(returns.mean()) if left > returns.var() else None


def without(batch: Any, dropped: np.ndarray) -> None:
    """Take trajectories out of a batch, in place: none of their tokens counts any more.

    Args:
        batch: with ``response_mask`` (batch, tokens).
        dropped: boolean (batch,).
    """
    kept = torch.from_numpy(~dropped).to(batch["response_mask"].dtype)
    batch["response_mask"] = batch["response_mask"] * kept.unsqueeze(-1)
