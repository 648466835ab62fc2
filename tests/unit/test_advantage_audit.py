"""Advantages of critics against known ones on a random walk."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from criticflow.stats import advantage_audit

STEPS = 6


def walk(problems=300, k=32, seed=0):
    """Trajectories of a coin-flip walk: the score is 1 with the chance that the walk ends at.

    V^pi is a martingale ``0.5 + sum of steps``, so advantages are the steps; the score at the end
    is drawn, and its deviation from the chance is the last token's advantage.
    """
    draw = np.random.default_rng(seed)
    steps = draw.choice([-0.08, 0.05], (problems, STEPS - 1), p=[5 / 13, 8 / 13])
    exact = 0.5 + np.concatenate([np.zeros((problems, 1)), np.cumsum(steps, 1)], axis=1)
    scores = (draw.random(problems) < exact[:, -1]).astype(float)
    draws = draw.random((problems, STEPS, k)) < exact[..., None]
    tokens = pd.DataFrame(
        {
            "prompt_index": np.repeat(np.arange(problems), STEPS),
            "trajectory": np.repeat(np.arange(problems), STEPS),
            "score": np.repeat(scores, STEPS),
            "v_mc": draws.mean(-1).ravel(),
            "v_se": draws.std(-1, ddof=1).ravel() / np.sqrt(k),
            "v_a": draws[..., ::2].mean(-1).ravel(),
            "v_b": draws[..., 1::2].mean(-1).ravel(),
        }
    )
    return tokens, exact.ravel()


def test_gae_by_hand():
    tokens = pd.DataFrame({"trajectory": [0, 0, 0, 1], "score": [1.0, 1.0, 1.0, 0.0]})
    values = np.array([0.2, 0.5, 0.4, 0.3])
    assert advantage_audit.advantages(tokens, values, 0.0) == pytest.approx([0.3, -0.1, 0.6, -0.3])
    assert advantage_audit.advantages(tokens, values, 1.0) == pytest.approx([0.8, 0.5, 0.6, -0.3])
    half = advantage_audit.advantages(tokens, values, 0.5, 0.9)
    deltas = [0.9 * 0.5 - 0.2, 0.9 * 0.4 - 0.5, 1 - 0.4]
    last = deltas[2]
    middle = deltas[1] + 0.45 * last
    assert half == pytest.approx([deltas[0] + 0.45 * middle, middle, last, -0.3])


def test_exact_values_at_lambda_0_have_the_true_advantages():
    tokens, exact = walk()
    found = advantage_audit.audit(tokens, exact, 0.0)
    assert found["mse"]["low"] <= 0 <= found["mse"]["high"]
    assert found["correlation"]["value"] == pytest.approx(1, abs=0.02)
    assert found["true_variance"]["value"] == pytest.approx(found["variance"]["value"], rel=0.05)
    seen = found["sign_observed"]["value"]
    assert seen < 0.8 < 0.9 < found["sign_agreement"]["value"]  # too low: the last tokens are clear
    raw = np.corrcoef(
        advantage_audit.advantages(tokens, exact, 0.0),
        advantage_audit.advantages(tokens, tokens["v_mc"], 0.0),
    )[0, 1]
    assert raw < 0.97  # what the correction restores


def test_signs_are_corrected_exactly_where_noise_is_even():
    draw = np.random.default_rng(5)
    count = 20_000
    up = draw.choice([-0.1, 0.1], count)
    wrong = draw.random(count) < 0.2
    halves = 0.5 + draw.normal(0, 0.15, (2, count))
    tokens = pd.DataFrame(
        {
            "prompt_index": np.arange(count),
            "trajectory": np.arange(count),
            "score": 0.5 + up,
            "v_mc": halves.mean(0),
            "v_se": 0.15 / np.sqrt(2),
            "v_a": halves[0],
            "v_b": halves[1],
        }
    )
    found = advantage_audit.audit(tokens, np.where(wrong, 0.5 + 2 * up, 0.5), 0.0)
    assert found["sign_observed"]["value"] < 0.76
    assert found["sign_agreement"]["low"] <= 0.8 <= found["sign_agreement"]["high"]


def test_lambda_1_adds_the_variance_of_what_follows():
    tokens, exact = walk()
    first = advantage_audit.audit(tokens, exact, 1.0)
    last = advantage_audit.audit(tokens, exact, 0.0)
    assert first["variance"]["value"] > 2 * last["variance"]["value"]
    assert first["mse"]["low"] > 0.1
    assert first["correlation"]["value"] < 0.6
    assert first["sign_agreement"]["value"] < 0.8


def test_a_constant_knows_the_score_at_lambda_1_and_only_the_end_at_0():
    tokens, _ = walk()
    rows = advantage_audit.audit_rows(tokens, {"other": np.full(len(tokens), 0.9)})
    constant = {row["lambda"]: row for row in rows if row["critic"] == "constant"}
    other = {row["lambda"]: row for row in rows if row["critic"] == "other"}
    for lam, name in ((1.0, "correlation"), (1.0, "variance")):
        assert constant[lam][name]["value"] == pytest.approx(other[lam][name]["value"])
    assert constant[1.0]["variance"]["value"] == pytest.approx(0.25, abs=0.02)
    tokens = tokens[tokens["trajectory"] % 2 == 0]
    inside = advantage_audit.advantages(tokens, np.full(len(tokens), 0.9), 0.0)
    assert np.count_nonzero(inside) == tokens["trajectory"].nunique()


def test_intervals_cover():
    many, exact = walk(60_000, 4, 1)
    noisy = exact + 0.1 * np.sin(40 * exact)
    names = ("mse", "correlation", "variance", "sign_observed")
    hits = dict.fromkeys(names, 0)
    own = advantage_audit.advantages(many, noisy, 0.0)
    true = advantage_audit.advantages(many, exact, 0.0)
    known = {
        "mse": np.mean((own - true) ** 2),
        "correlation": np.corrcoef(own, true)[0, 1],
        "variance": own.var(),
    }
    observed = []
    for seed in range(200):
        tokens, exact = walk(40, 32, seed + 2)
        found = advantage_audit.audit(tokens, exact + 0.1 * np.sin(40 * exact), 0.0)
        observed.append(found["sign_observed"])
        for name, truth in known.items():
            hits[name] += found[name]["low"] <= truth <= found[name]["high"]
    agreement = np.mean([one["value"] for one in observed])
    hits["sign_observed"] = sum(one["low"] <= agreement <= one["high"] for one in observed)
    for name in names:
        assert 0.91 <= hits[name] / 200 <= 0.99, (name, hits)


def test_without_halves_the_sign_is_not_corrected():
    tokens, exact = walk(20)
    found = advantage_audit.audit(tokens.drop(columns=["v_a", "v_b"]), exact, 0.0)
    assert found["sign_agreement"]["value"] is None
    assert found["sign_observed"]["value"] is not None
    dull = tokens.assign(v_mc=0.5, v_se=0.0, score=0.5, v_a=0.5, v_b=0.5)
    found = advantage_audit.audit(dull, exact, 0.0)
    assert found["correlation"]["value"] is None and found["sign_agreement"]["value"] is None
