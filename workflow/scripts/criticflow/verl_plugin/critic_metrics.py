"""How well the critic predicts, at each step, against returns that do not contain its values.

verl's ``critic/vf_explained_var`` compares values with GAE returns, which contain the values when
lambda < 1. These compare with Monte-Carlo returns G_t = sum_{k>=t} gamma^(k-t) r_k.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from criticflow.stats import calibration


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
    states = pd.DataFrame(
        {
            "prompt": 0,  # the whole batch counts as one: a step has no interval
            "value": values[inside],
            "return": monte_carlo_returns(scores, mask, gamma)[inside],
            "masked_return": monte_carlo_returns(masked_rewards, mask, gamma)[inside],
        }
    )
    masked = states.assign(**{"return": states["masked_return"]})
    correct = scores.sum(axis=1) >= success - 1e-6
    prompts = pd.DataFrame({"prompt": 0, "value": values[:, 0], "correct": correct})
    statistics = {
        "criticflow/explained_variance/true_return": calibration.explained_variance(states, 1),
        "criticflow/explained_variance/masked_return": calibration.explained_variance(masked, 1),
        "criticflow/prompt_value_auc": calibration.auc(prompts, 1),
    }
    metrics = {name: float(of(np.ones((1, 1)))[0]) for name, of in statistics.items()}
    metrics["criticflow/value_bias"] = float(values[inside].mean() - states["return"].mean())
    return {name: value for name, value in metrics.items() if not np.isnan(value)}
