"""Decoupled, adaptive and gated GAE, and dropped trajectories, in verl's own computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import agg_loss, compute_gae_advantage_return
from verl.trainer.ppo.v1 import trainer_base

from criticflow.verl_plugin import patches
from criticflow.verl_plugin.advantages import (
    GATE,
    gated_mean,
    length_adaptive_lambda,
    recompute,
    without,
)
from criticflow.verl_plugin.reward_mask import masked_trajectories
from criticflow.verl_plugin.settings import AdvantageSettings, RewardMaskSettings
from criticflow.verl_plugin.trainer import masked_rows
from test_control_runs import KEYS, NAMES, TOKENS, batch, whitened

REAL = np.ones(len(KEYS), dtype=bool)


def values(seed: int = 1) -> torch.Tensor:
    return torch.rand(len(NAMES), TOKENS, generator=torch.Generator().manual_seed(seed))


def computed(data, lam=0.95, dropped=None, **given):
    """verl's advantage computation with the settings around it; the data and the metrics."""
    settings = AdvantageSettings(gamma=1.0, lam=lam, **given)
    metrics = {}

    def before(data, keys):
        if dropped is not None:
            without(data.batch, dropped)

    def after(data):
        if settings.changes_something:
            metrics.update(recompute(data.batch, settings, REAL))

    with patches.around_advantage(before, after):
        found = trainer_base.compute_advantage_for_multi_trajectories(
            data, batch_keys=KEYS, adv_estimator="gae", gamma=1.0, lam=lam, config=AlgoConfig()
        )
    return found.batch, metrics


def test_equal_lambdas_are_stock_verl_bit_for_bit():
    stock, _ = computed(batch(values()))
    same, _ = computed(batch(values()), critic_lam=0.95)
    assert torch.equal(stock["advantages"], same["advantages"])
    assert torch.equal(stock["returns"], same["returns"])


def test_the_critic_learns_monte_carlo_returns_and_the_policy_keeps_its_lambda():
    stock, _ = computed(batch(values()))
    found, _ = computed(batch(values()), critic_lam=1.0)
    assert torch.equal(found["advantages"], stock["advantages"])
    mask, outcome = found["response_mask"], found["token_level_rewards"].sum(dim=-1, keepdim=True)
    torch.testing.assert_close(found["returns"] * mask, outcome * mask)
    assert not torch.equal(found["returns"], stock["returns"])


def test_long_responses_have_a_lambda_near_one():
    found = length_adaptive_lambda(torch.tensor([1, 10, 20, 40, 1000]), 0.05)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.0, 0.5, 0.98]))


def test_each_response_has_the_advantages_of_its_own_lambda():
    data = batch(values())
    mask = data.batch["response_mask"]
    found, metrics = computed(batch(values()), length_adaptive_alpha=0.5)
    lambdas = length_adaptive_lambda(mask.sum(dim=-1), 0.5)
    assert metrics["criticflow/length_adaptive_lambda/mean"] == pytest.approx(float(lambdas.mean()))
    raw = torch.zeros_like(found["advantages"])
    for row, lam in enumerate(lambdas.tolist()):
        alone = [
            data.batch[name][row : row + 1]
            for name in ("token_level_rewards", "values", "response_mask")
        ]
        if mask[row].sum() == 1:  # verl cannot whiten one token
            raw[row, 0] = alone[0][0, 0] - alone[1][0, 0]
            continue
        _, returns = compute_gae_advantage_return(*alone, 1.0, lam)
        raw[row] = (returns - alone[1])[0]
    torch.testing.assert_close(
        found["advantages"] * mask, whitened(raw, mask), rtol=1e-4, atol=1e-5
    )
    stock, _ = computed(batch(values()))
    assert torch.equal(found["returns"], stock["returns"])  # the critic's lambda is not touched


def test_the_gate_takes_the_mean_while_values_explain_less_than_nothing():
    data = batch()
    outcome = data.batch["token_level_rewards"].sum(dim=-1, keepdim=True)
    wrong, right = 1 - outcome.expand(-1, TOKENS), outcome.expand(-1, TOKENS)
    found, metrics = computed(batch(wrong), lam=1.0, value_gate=True)
    assert metrics[GATE] == 1.0
    mask = found["response_mask"]
    # Whitened, the outcome less a constant is the outcome.
    expected = whitened(outcome.expand(-1, TOKENS) * mask, mask)
    torch.testing.assert_close(found["advantages"] * mask, expected, rtol=1e-4, atol=1e-5)
    stock, _ = computed(batch(wrong), lam=1.0)
    assert torch.equal(found["returns"], stock["returns"])
    assert not torch.allclose(found["advantages"], stock["advantages"])

    open_gate, metrics = computed(batch(right), lam=0.9, value_gate=True)
    stock, _ = computed(batch(right), lam=0.9)
    assert metrics[GATE] == 0.0
    assert torch.equal(open_gate["advantages"], stock["advantages"])


def test_the_gate_looks_at_explained_variance_of_discounted_returns():
    rewards = np.array([[0.0, 1.0], [0.0, 0.0]])
    mask = np.ones((2, 2))
    exact = np.array([[0.5, 1.0], [0.0, 0.0]])
    assert gated_mean(rewards, exact, mask, 0.5) is None
    assert gated_mean(rewards, exact + 3.0, mask, 0.5) is None  # a constant explains nothing less
    assert gated_mean(rewards, -exact, mask, 0.5) == pytest.approx(0.375)


def test_dropped_trajectories_leave_no_trace_in_whitening_and_loss():
    mask = RewardMaskSettings(ratio=0.5, type="fixed_ratio", seed=3, drop=True)
    dropped = masked_rows(mask, 1, KEYS, REAL)
    assert (dropped == masked_trajectories(mask, 1, NAMES)).all() and dropped.sum() == 200
    found, _ = computed(batch(values()), dropped=dropped)
    # The same as if they had never been there.
    data = batch(values()).batch[torch.from_numpy(~dropped)]
    alone, returns = compute_gae_advantage_return(
        data["token_level_rewards"], data["values"], data["response_mask"], 1.0, 0.95
    )
    kept = torch.from_numpy(~dropped)
    inside = data["response_mask"]
    torch.testing.assert_close(found["advantages"][kept] * inside, alone * inside)
    torch.testing.assert_close(found["returns"][kept] * inside, returns * inside)
    errors = (found["values"] - found["returns"]) ** 2
    whole = agg_loss(errors, found["response_mask"], "token-mean")
    torch.testing.assert_close(whole, agg_loss(errors[kept], inside, "token-mean"))


def test_by_default_nothing_is_computed_again():
    assert not AdvantageSettings(gamma=1.0, lam=0.9).changes_something
    assert computed(batch(values()))[1] == {}
