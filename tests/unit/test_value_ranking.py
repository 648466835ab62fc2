"""Choosing the best next piece: enumeration, chance, and noise that must not flatter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from criticflow.stats import value_ranking


def table(problems=200, m=4, k=64, seed=0):
    """Pieces of one state a problem with known truth, scored 0 or 1, and their continuations."""
    draw = np.random.default_rng(seed)
    truth = draw.uniform(0.1, 0.9, problems * m)
    pieces = pd.DataFrame(
        {
            "state": np.arange(problems * m),
            "prompt_index": np.repeat(np.arange(problems), m),
            "parent": np.repeat(np.arange(problems), m),
        }
    )
    scores = draw.random((problems * m, k)) < truth[:, None]
    continuations = pd.DataFrame(
        {
            "state": np.repeat(pieces["state"].to_numpy(), k),
            "score": scores.ravel().astype(float),
            "length": 1,
        }
    )
    return pieces, continuations, truth


def test_figures_by_hand():
    pieces = pd.DataFrame(
        {
            "prompt_index": [0, 0, 0, 1, 1, 2],
            "parent": [0, 0, 0, 1, 1, 2],
            "v_a": [0.9, 0.5, 0.1, 0.2, 0.2, 0.5],
            "v_b": [0.6, 0.8, 0.1, 0.4, 0.2, 0.5],
        }
    )
    found = value_ranking.ranking(pieces, np.array([1, 0, 0, 5, 5, 9.0]))
    # State 0: a names the first (b: 0.6), b names the second (a: 0.5); the first is chosen.
    first = {"regret": (0 + (0.5 - 0.9)) / 2, "top1": 0.5, "top1_chance": 1 / 3}
    # State 1: equal values choose half each; a names both, b the first. Nothing is lost by a.
    second = {"regret": ((0.3 - 0.3) + (0.2 - 0.2)) / 2, "top1": 0.5, "top1_chance": 0.5}
    for name in first:
        assert found[name]["value"] == pytest.approx((first[name] + second[name]) / 2), name
    chance = (((0.6 - 0.5) + (0.5 - 0.5)) / 2 + 0) / 2
    assert found["regret_chance"]["value"] == pytest.approx(chance)
    assert found["states"] == found["problems"] == 2  # one piece is no choice


def test_a_constant_has_the_figures_of_chance():
    pieces, continuations, _ = table()
    judged = value_ranking.pieces_truth(pieces, continuations)
    found = value_ranking.ranking(judged, np.zeros(len(judged)))
    assert found["regret"] == pytest.approx(found["regret_chance"])
    assert found["top1"]["value"] == pytest.approx(0.25)
    assert found["regret_share"]["value"] == pytest.approx(1)


def test_the_truth_wins_and_monte_carlo_gains_by_k():
    pieces, continuations, truth = table()
    regrets = []
    for k in (1, 4, 16):
        judged = value_ranking.pieces_truth(pieces, continuations, k)
        found = value_ranking.ranking(judged, judged["monte_carlo"].to_numpy())
        regrets.append(found["regret"]["value"])
    exact = value_ranking.ranking(judged, truth)
    assert regrets[0] > regrets[1] > regrets[2] > exact["regret"]["value"]
    assert exact["regret"]["value"] <= 0.005  # nobody chooses better
    assert exact["top1"]["value"] > 0.7
    assert found["regret_chance"]["value"] == pytest.approx(0.24, abs=0.03)


def test_choosing_by_noise_is_no_better_than_chance():
    """All pieces are worth the same: who is judged by what chose would seem to gain."""
    pieces, _, _ = table(400)
    draw = np.random.default_rng(1)
    noise = pd.DataFrame(
        {
            "state": np.repeat(pieces["state"].to_numpy(), 8),
            "score": (draw.random(len(pieces) * 8) < 0.5).astype(float),
            "length": 1,
        }
    )
    judged = value_ranking.pieces_truth(pieces, noise, 4)
    found = value_ranking.ranking(judged, judged["monte_carlo"].to_numpy())
    for name in ("regret", "regret_chance"):
        assert found[name]["low"] <= 0 <= found[name]["high"], name
    assert found["regret_share"]["low"] is None


def test_the_interval_of_regret_covers():
    expected, hits = None, 0
    for seed in range(200):
        pieces, continuations, truth = table(40, 3, 16, seed + 10)
        judged = value_ranking.pieces_truth(pieces, continuations)
        half_right = truth + np.random.default_rng(seed).normal(0, 0.3, len(truth))
        found = value_ranking.ranking(judged, half_right)["regret"]
        if expected is None:
            many, more, exact = table(20_000, 3, 16, 9)
            noisy = exact + np.random.default_rng(9).normal(0, 0.3, len(exact))
            expected = value_ranking.ranking(value_ranking.pieces_truth(many, more), noisy)
            expected = expected["regret"]["value"]
        hits += found["low"] <= expected <= found["high"]
    assert abs(hits / 200 - 0.95) <= 2 * np.sqrt(0.95 * 0.05 / 200)


def test_what_cannot_be_ranked_is_refused():
    pieces, continuations, _ = table(3, 2, 2)
    with pytest.raises(ValueError, match="too few"):
        value_ranking.pieces_truth(pieces, continuations, 1)
    alone = value_ranking.pieces_truth(pieces, continuations).iloc[:3]
    with pytest.raises(ValueError, match="two pieces"):
        value_ranking.ranking(alone, np.zeros(3))
