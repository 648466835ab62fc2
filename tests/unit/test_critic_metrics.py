"""Metrics of the critic against values worked out by hand or by scikit-free definitions."""

import numpy as np
import pytest

from criticflow.verl_plugin.critic_metrics import critic_metrics, monte_carlo_returns

MASK = np.array([[1, 1, 1], [1, 1, 0]])
REWARDS = np.array([[0.0, 0.0, 1.0], [0.0, 0.5, 0.0]])


def test_monte_carlo_returns_are_discounted_sums_of_what_follows():
    returns = monte_carlo_returns(REWARDS, MASK, gamma=0.5)
    assert returns.tolist() == [[0.25, 0.5, 1.0], [0.25, 0.5, 0.0]]


def test_returns_skip_tokens_outside_of_the_mask():
    gap = np.array([[1, 0, 1]])
    returns = monte_carlo_returns(np.array([[0.0, 9.0, 1.0]]), gap, gamma=0.5)
    assert returns.tolist() == [[0.5, 0.0, 1.0]]


def metric(name, values, scores):
    """One metric of single-token responses."""
    column = np.asarray(values, dtype=float)[:, None], np.asarray(scores, dtype=float)[:, None]
    found = critic_metrics(*column, column[1], np.ones((len(values), 1)), gamma=1.0)
    return found.get(f"criticflow/{name}")


def test_explained_variance_of_perfect_constant_and_inverse_values():
    returns = np.array([0.0, 1.0, 0.0, 1.0])
    name = "explained_variance/true_return"
    assert metric(name, returns, returns) == 1.0
    assert metric(name, np.full(4, 7.0), returns) == 0.0
    assert metric(name, 1 - returns, returns) == -3.0
    assert metric(name, returns, np.ones(4)) is None


def test_auc_is_the_share_of_ordered_pairs():
    values, scores = [0.1, 0.4, 0.4, 0.9], [0.0, 1.0, 0.0, 1.0]
    pairs = [(0.4, 0.1), (0.4, 0.4), (0.9, 0.1), (0.9, 0.4)]
    expected = np.mean([1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs])
    assert metric("prompt_value_auc", values, scores) == pytest.approx(expected)
    assert metric("prompt_value_auc", values, np.ones(4)) is None


def test_true_and_masked_returns_are_told_apart():
    values = np.array([[1.0, 1.0, 1.0], [0.5, 0.5, 0.0]])
    masked = REWARDS * np.array([[0.0], [1.0]])
    metrics = critic_metrics(values, REWARDS, masked, MASK, gamma=1.0)
    assert metrics["criticflow/explained_variance/true_return"] == pytest.approx(1.0)
    assert metrics["criticflow/explained_variance/masked_return"] < 0
    assert metrics["criticflow/value_bias"] == pytest.approx(0.0)
    assert metrics["criticflow/prompt_value_auc"] == 1.0


def test_undefined_metrics_are_left_out():
    metrics = critic_metrics(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)), MASK, gamma=1.0)
    assert metrics == {"criticflow/value_bias": 0.0}
