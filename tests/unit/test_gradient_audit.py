"""Policy gradients of critics against the true one, on a chain where all of it is known exactly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from criticflow.stats import advantage_audit, gradient_audit
from markov_chain import CELLS, CHANCES, EXACT, SCORES, STEPS

UP = 0.5  # chance of a step up, of a softmax over the two ways from each cell


def sampled(problems, continuations=0, seed=0):
    """Responses of the chain, the inner products of their tokens' gradients, and exact values.

    A token is a step; its policy is a softmax over the two ways from the cell, so the gradient of
    log pi is one minus UP for the way that was taken, minus that of the other, at the cell's
    parameter. Without continuations the truth is exact.
    """
    draw = np.random.default_rng(seed)
    cell = draw.integers(1, CELLS - 1, problems)
    exact, gradient, chance = [], [], []
    for time in range(STEPS):
        up = draw.random(problems) < UP
        exact.append(EXACT[time][cell])
        gradient.append(np.eye(CELLS)[cell] * np.where(up, 1 - UP, -UP)[:, None])
        chance.append(CHANCES[time][cell])
        inside = (cell > 0) & (cell < CELLS - 1)
        cell = cell + inside * np.where(up, 1, -1)
    exact, gradient, chance = (np.stack(part, axis=1) for part in (exact, gradient, chance))
    known = np.repeat(exact[..., None], 2, -1)
    if continuations:
        kinds = draw.random((*exact.shape, continuations, 1)) > np.cumsum(chance, -1)[..., None, :2]
        scores = SCORES[kinds.sum(-1)]
        known = scores.reshape(*exact.shape, continuations // 2, 2).mean(-2)
    number = np.repeat(np.arange(problems), STEPS)
    tokens = pd.DataFrame({"prompt_index": number, "trajectory": number})
    tokens["score"] = np.repeat(EXACT[-1][cell], STEPS)
    tokens["v_a"], tokens["v_b"] = known.reshape(-1, 2).T
    tokens["v_mc"] = (tokens["v_a"] + tokens["v_b"]) / 2
    gradient = gradient.reshape(-1, CELLS)
    return tokens, gradient, exact.ravel()


def judged(tokens, gradient, values, lam):
    return gradient_audit.audit(tokens, gradient @ gradient.T, values, lam)


def by_hand(tokens, gradient, advantages):
    """Of each response, the policy gradient as a vector."""
    parts = pd.DataFrame(gradient * advantages[:, None]).groupby(tokens["trajectory"]).sum()
    return parts.to_numpy()


def test_the_true_advantages_have_the_true_gradient():
    tokens, gradient, exact = sampled(30)
    found = judged(tokens, gradient, exact, 0.0)
    for name in ("cosine", "cosine_expected", "variance_ratio"):
        for bound in ("value", "low", "high"):
            assert found[name][bound] == pytest.approx(1, abs=1e-6), name
    assert found["variance"] == pytest.approx(found["true_variance"])
    assert found["responses"] == 30


def test_figures_are_those_of_the_gradients_themselves():
    tokens, gradient, exact = sampled(150)
    values = exact + 0.2 * np.sin(40 * exact)
    found = judged(tokens, gradient, values, 1.0)
    own, true = (
        by_hand(tokens, gradient, advantage_audit.advantages(tokens, of, lam))
        for of, lam in ((values, 1.0), (exact, 0.0))
    )
    whole, best = own.sum(0), true.sum(0)
    cosine = whole @ best / np.linalg.norm(whole) / np.linalg.norm(best)
    assert found["cosine"]["value"] == pytest.approx(cosine, abs=0.03)
    variance = np.trace(np.cov(own.T)) / STEPS**2
    assert found["variance"]["value"] == pytest.approx(variance, rel=1e-6)
    best_variance = np.trace(np.cov(true.T)) / STEPS**2
    assert found["variance_ratio"]["value"] == pytest.approx(variance / best_variance, rel=1e-6)


def test_noise_of_the_truth_is_taken_out():
    """With four continuations a token, over many draws: the figures of exact advantages."""
    tokens, gradient, exact = sampled(20_000 // STEPS, seed=1)
    true = by_hand(tokens, gradient, advantage_audit.advantages(tokens, exact, 0.0))
    expected = {
        "true_variance": np.trace(np.cov(true.T)) / STEPS**2,
        "squared_norm": np.sum(true.mean(0) ** 2) / STEPS**2,
    }
    seen = {name: [] for name in (*expected, "noisy")}
    for seed in range(150):
        tokens, gradient, exact = sampled(20, 4, seed + 10)
        found = judged(tokens, gradient, exact, 0.0)
        for name in expected:
            seen[name].append(found[name]["value"])
        noisy = by_hand(tokens, gradient, advantage_audit.advantages(tokens, tokens["v_mc"], 0.0))
        seen["noisy"].append(np.trace(np.cov(noisy.T)) / STEPS**2)
    for name, value in expected.items():
        error = np.std(seen[name]) / np.sqrt(len(seen[name]))
        assert abs(np.mean(seen[name]) - value) < 3 * error, name
    assert np.mean(seen["noisy"]) > 1.5 * expected["true_variance"]


def test_at_lambda_1_a_baseline_costs_variance_and_at_lambda_0_it_errs():
    tokens, gradient, exact = sampled(200, seed=3)
    nothing = np.full(len(exact), exact.mean())
    exact_1, floor_1 = (judged(tokens, gradient, values, 1.0) for values in (exact, nothing))
    upside_down = judged(tokens, gradient, 1 - exact, 0.0)
    for found in (exact_1, floor_1):
        assert found["cosine_expected"]["low"] <= 1 <= found["cosine_expected"]["high"]
    assert 1 < exact_1["variance_ratio"]["value"] < floor_1["variance_ratio"]["value"]
    assert floor_1["cosine"]["value"] < exact_1["cosine"]["value"] < 1
    assert upside_down["cosine_expected"]["high"] < 0


def test_intervals_cover():
    names = ("cosine", "variance", "variance_ratio", "squared_norm")
    hits, problems = dict.fromkeys(names, 0), 40
    tokens, gradient, exact = sampled(40_000, seed=4)
    wrong = exact + 0.2 * np.sin(40 * exact)
    own, true = (
        by_hand(tokens, gradient, advantage_audit.advantages(tokens, of, lam))
        for of, lam in ((wrong, 1.0), (exact, 0.0))
    )

    def inner(one, other):
        same = np.mean(np.sum(one * other, 1))
        return same / problems + (1 - 1 / problems) * one.mean(0) @ other.mean(0)

    variances = [np.trace(np.cov(part.T)) / STEPS**2 for part in (own, true)]
    known = {
        "cosine": inner(own, true) / np.sqrt(inner(own, own) * inner(true, true)),
        "variance": variances[0],
        "variance_ratio": variances[0] / variances[1],
        "squared_norm": np.sum(true.mean(0) ** 2) / STEPS**2,
    }
    for seed in range(150):
        tokens, gradient, exact = sampled(problems, 32, seed + 1000)
        found = judged(tokens, gradient, exact + 0.2 * np.sin(40 * exact), 1.0)
        for name, value in known.items():
            low, high = found[name]["low"], found[name]["high"]
            hits[name] += low is not None and low <= value <= high
    for name in names:
        assert hits[name] / 150 >= 0.87, (name, hits)


def test_what_has_no_direction_has_no_cosine():
    tokens, gradient, exact = sampled(10)
    flat = tokens.assign(v_mc=0.5, v_a=0.5, v_b=0.5, score=0.5)
    found = judged(flat, gradient, np.full(len(exact), 0.5), 1.0)
    assert found["cosine"]["value"] is None and found["variance_ratio"]["value"] is None
    with pytest.raises(ValueError, match="products of shape"):
        gradient_audit.audit(tokens, (gradient @ gradient.T)[:-1], exact, 1.0)
