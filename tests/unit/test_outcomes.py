"""Estimators against closed forms, enumeration and simulation."""

from __future__ import annotations

from itertools import combinations
from math import log

import numpy as np
import pytest

from criticflow.stats import outcomes


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for k in range(1, n + 1):
        for c in range(n + 1):
            drawn = [True] * c + [False] * (n - c)
            subsets = list(combinations(drawn, k))
            expected = sum(map(any, subsets)) / len(subsets)
            assert outcomes.pass_at_k(np.array([c]), n, k) == pytest.approx([expected], abs=1e-12)


def test_pass_at_k_survives_many_samples_and_refuses_impossible_ones():
    assert outcomes.pass_at_k(np.array([0, 1, 10_000]), 10_000, 100) == pytest.approx([0, 0.01, 1])
    for counts, n, k in (([1], 4, 5), ([1], 4, 0), ([5], 4, 1), ([-1], 4, 1)):
        with pytest.raises(ValueError):
            outcomes.pass_at_k(np.array(counts), n, k)


def test_entropy_of_draws_agrees_with_the_distribution():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    exact = -float(np.sum(p * np.log(p)))
    generator = np.random.default_rng(0)
    rows = [
        np.log(p[generator.choice(4, p=p, size=generator.integers(1, 20))]) for _ in range(2000)
    ]
    found = outcomes.entropy(rows, np.arange(2000) // 4)
    assert found.tokens == sum(map(len, rows))
    assert abs(found.value - exact) < 4 * found.standard_error
    assert 0.001 < found.standard_error < 0.02


def test_entropy_error_counts_the_samples_of_a_prompt_as_one():
    rows = [[-1.0], [-3.0]] * 50
    alone = outcomes.entropy(rows, range(100))
    assert alone.value == 2.0
    # Sixteen copies of each response say nothing new about the prompts.
    copied = outcomes.entropy(rows * 16, list(range(100)) * 16)
    assert copied.standard_error == pytest.approx(alone.standard_error)
    assert outcomes.entropy(rows, [0] * 100).standard_error is None
    with pytest.raises(ValueError):
        outcomes.entropy([[]], [0])


def test_entropy_weighs_tokens_not_responses():
    assert outcomes.entropy([[-log(2)] * 3, [0.0]], [0, 1]).value == pytest.approx(0.75 * log(2))


def test_reward_variance_of_one_success_among_sixteen():
    rewards = np.eye(16)[:1]
    assert outcomes.reward_variance(rewards) == pytest.approx([15 / 256])


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        found = outcomes.bootstrap_mean(generator.binomial(1, 0.3, 200).astype(float), seed, 500)
        hits += found.low <= 0.3 <= found.high
    assert 0.89 < hits / 200 < 0.99


def test_bootstrap_is_repeatable_and_honest_about_one_prompt():
    values = np.random.default_rng(2).random(50)
    assert outcomes.bootstrap_mean(values, 7) == outcomes.bootstrap_mean(values, 7)
    assert outcomes.bootstrap_mean(values, 7) != outcomes.bootstrap_mean(values, 8)
    assert outcomes.bootstrap_mean(np.array([0.5]), 0) == outcomes.Estimate(0.5, None, None)
    with pytest.raises(ValueError):
        outcomes.bootstrap_mean(np.array([]), 0)


def test_bootstrap_of_a_ratio():
    found = outcomes.bootstrap_mean(np.array([1.0, 6.0, 2.0]), 0, weights=np.array([1.0, 3.0, 1.0]))
    assert found.value == pytest.approx(9 / 5)
    assert 1.0 <= found.low <= found.value <= found.high <= 2.0


def test_pairing_removes_what_both_models_share():
    generator = np.random.default_rng(3)
    base = generator.random(300)
    found = outcomes.paired_difference(base, base + 0.1, 0)
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError):
        outcomes.paired_difference(base, base[:-1], 0)


def test_mcnemar_is_the_exact_binomial():
    first = np.array([True] * 3 + [False] * 10 + [True] * 5)
    second = np.array([False] * 3 + [True] * 10 + [True] * 5)
    found = outcomes.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (3, 10)
    assert found.p_value == pytest.approx(2 * sum([1, 13, 78, 286]) / 2**13)
    assert outcomes.mcnemar(first, first).p_value == 1.0
