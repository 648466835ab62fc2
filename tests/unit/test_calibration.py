"""Figures of values against definitions, and their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from criticflow.stats import calibration

OPTIONS = {"seed": 0, "resamples": 300, "confidence": 0.95}


def table(prompts=40, samples=4, noise=0.3, seed=0, tokens=1) -> pd.DataFrame:
    """Responses that are right with the probability of their prompt, which V estimates."""
    draw = np.random.default_rng(seed)
    rates = np.repeat(draw.random(prompts), samples)
    right = draw.random(prompts * samples) < rates
    frame = pd.DataFrame(
        {
            "prompt": np.repeat(np.arange(prompts), samples),
            "sample": np.arange(prompts * samples),
            "value": rates + draw.normal(0, noise, prompts * samples),
            "return": np.where(right, 1.0, 0.2),
            "correct": right,
        }
    )
    return pd.concat([frame] * tokens, ignore_index=True)


def value_of(statistic, prompts) -> float:
    return float(statistic(np.ones((1, prompts)))[0])


def test_point_figures_agree_with_their_definitions():
    states = table()
    values, returns = states["value"].to_numpy(), states["return"].to_numpy()
    found = calibration.explained_variance(states, 40)
    assert value_of(found, 40) == pytest.approx(1 - np.var(returns - values) / np.var(returns))
    found = calibration.auc(states, 40)
    right = states["correct"].to_numpy()
    pairs = right.sum() * (~right).sum()
    statistic = stats.mannwhitneyu(values[right], values[~right]).statistic
    assert value_of(found, 40) == pytest.approx(statistic / pairs)
    found = calibration.brier(states, 40)
    assert value_of(found, 40) == pytest.approx(np.mean((values - returns) ** 2))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None)
def test_auc_is_the_share_of_pairs_in_order_ties_half(pairs):
    states = pd.DataFrame(
        {
            "prompt": 0,
            "value": [value / 5 for value, _ in pairs],
            "correct": [right for _, right in pairs],
        }
    )
    good = states.loc[states["correct"], "value"]
    bad = states.loc[~states["correct"], "value"]
    found = value_of(calibration.auc(states, 1), 1)
    if good.empty or bad.empty:
        assert np.isnan(found)
    else:
        wins = [(a > b) + (a == b) / 2 for a in good for b in bad]
        assert found == pytest.approx(np.mean(wins))


def test_a_weight_is_a_number_of_copies():
    states = table(prompts=5)
    weights = np.array([2, 0, 1, 3, 1])
    copies = pd.concat(
        [states[states["prompt"] == prompt] for prompt in np.repeat(np.arange(5), weights)]
    )
    for name in ("explained_variance", "brier", "expected_calibration_error", "auc"):
        statistic = getattr(calibration, name)
        weighted = float(statistic(states, 5)(weights[None].astype(float))[0])
        assert weighted == pytest.approx(value_of(statistic(copies, 5), 5)), name


def test_ece_and_reliability_by_hand():
    states = pd.DataFrame(
        {
            "prompt": [0, 0, 1, 1, 1],
            "value": [-0.2, 0.05, 0.72, 0.78, 1.3],
            "return": [0.0, 0.2, 1.0, 0.2, 1.0],
        }
    )
    bins = calibration.reliability(states)
    assert [(row["low"], row["high"], row["states"]) for row in bins] == [
        (0.0, 0.1, 2),
        (0.7, 0.8, 2),
        (0.9, 1.0, 1),
    ]
    assert bins[0]["mean_value"] == pytest.approx(-0.075)
    assert bins[1]["mean_return"] == pytest.approx(0.6)
    gaps = [row["states"] * abs(row["mean_value"] - row["mean_return"]) for row in bins]
    found = value_of(calibration.expected_calibration_error(states, 2), 2)
    assert found == pytest.approx(sum(gaps) / 5)


def test_a_perfect_and_a_constant_critic():
    states = table()
    perfect = calibration.state_figures(states.assign(value=states["return"]), 40, **OPTIONS)
    assert perfect["explained_variance"]["value"] == pytest.approx(1.0)
    assert perfect["auc"]["value"] == 1.0
    assert perfect["brier"]["value"] == perfect["ece"]["value"] == 0.0
    constant = calibration.state_figures(states.assign(value=0.5), 40, **OPTIONS)
    assert constant["explained_variance"]["value"] == pytest.approx(0.0)
    assert constant["auc"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_what_is_undefined_is_none():
    states = table().assign(**{"return": 1.0, "correct": True})
    found = calibration.state_figures(states, 40, **OPTIONS)
    assert found["explained_variance"] is None and found["auc"] is None
    constant = calibration.correlation(np.full(40, 0.1), np.arange(40.0))
    assert calibration.estimate(constant, 40, **OPTIONS) is None


def test_intervals_hold_the_figure_and_count_samples_of_a_prompt_as_one():
    one = calibration.state_figures(table(), 40, **OPTIONS)
    for name in ("explained_variance", "brier", "ece", "auc"):
        assert one[name]["low"] <= one[name]["value"] <= one[name]["high"], name
    many = calibration.state_figures(table(tokens=10), 40, **OPTIONS)
    assert "auc" not in many  # ten states of a response share its outcome
    assert many["explained_variance"] == pytest.approx(one["explained_variance"])
    again = calibration.state_figures(table(), 40, **OPTIONS)
    assert again == one


def test_the_interval_of_auc_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    truth = value_of(calibration.auc(table(20_000, 1), 20_000), 20_000)
    for seed in range(100):
        statistic = calibration.auc(table(60, 4, seed=seed + 1), 60)
        found = calibration.estimate(statistic, 60, seed, 300, 0.95)
        hits += found["low"] <= truth <= found["high"]
    assert hits >= 88


def test_correlation_is_pearsons():
    draw = np.random.default_rng(0)
    first = draw.random(50)
    second = first + draw.normal(0, 0.2, 50)
    found = calibration.estimate(calibration.correlation(first, second), 50, **OPTIONS)
    assert found["value"] == pytest.approx(stats.pearsonr(first, second).statistic)
    assert found["low"] < found["value"] < found["high"]
