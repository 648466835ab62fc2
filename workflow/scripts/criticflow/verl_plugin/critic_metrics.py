"""How good the critic is, step by step, against returns that do not contain the critic itself.

verl's ``critic/vf_explained_var`` compares values with GAE returns, which contain the values when
lambda < 1. These compare with Monte-Carlo returns G_t = sum_{k>=t} gamma^(k-t) r_k.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def monte_carlo_returns(rewards: np.ndarray, mask: np.ndarray, gamma: float) -> np.ndarray:
    """G_t for every response token.

    Args:
        rewards: token-level rewards, (batch, tokens).
        mask: 1 on response tokens, (batch, tokens).
        gamma: discount per token.

    Returns:
        (batch, tokens), 0 outside of the mask.
    """
    returns = np.zeros_like(rewards, dtype=np.float64)
    running = np.zeros(len(rewards))
    for token in reversed(range(rewards.shape[1])):
        inside = mask[:, token] > 0
        running = np.where(inside, rewards[:, token] + gamma * running, running)
        returns[:, token] = np.where(inside, running, 0.0)
    return returns


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 - Var(G - V) / Var(G); nan where all returns are equal."""
    variance = returns.var()
    return float("nan") if variance == 0 else float(1.0 - (returns - values).var() / variance)


def auc(values: np.ndarray, success: np.ndarray) -> float:
    """Probability that a success has a higher value than a failure (Mann-Whitney U).

    nan where there is no success or no failure.
    """
    positives, negatives = int(success.sum()), int((~success).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(values)
    return float((ranks[success].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def critic_metrics(
    values: np.ndarray,
    scores: np.ndarray,
    masked_rewards: np.ndarray,
    mask: np.ndarray,
    gamma: float,
    success: float = 1.0,
) -> dict[str, float]:
    """The metrics of one step; those that are undefined for this batch are left out.

    Args:
        values: V(s_t), (batch, tokens); column 0 is the value at the last prompt token.
        scores: true token-level scores, (batch, tokens).
        masked_rewards: the rewards that PPO saw, (batch, tokens).
        mask: response mask, (batch, tokens).
        gamma: discount.
        success: a trajectory succeeds if its score reaches this.
    """
    inside = mask > 0
    true_returns = monte_carlo_returns(scores, mask, gamma)
    seen_returns = monte_carlo_returns(masked_rewards, mask, gamma)
    metrics = {
        "criticflow/explained_variance/true_return": explained_variance(
            values[inside], true_returns[inside]
        ),
        "criticflow/explained_variance/masked_return": explained_variance(
            values[inside], seen_returns[inside]
        ),
        "criticflow/value_bias": float(values[inside].mean() - true_returns[inside].mean()),
        "criticflow/prompt_value_auc": auc(values[:, 0], scores.sum(axis=1) >= success - 1e-6),
    }
    return {name: value for name, value in metrics.items() if not np.isnan(value)}
