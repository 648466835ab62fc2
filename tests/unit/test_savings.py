"""Thresholds, areas, the ledger and the share of the oracle's gain."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from criticflow.stats import crossed, savings, simulate, threshold
from criticflow.stats.crossed import Components
from criticflow.stats.threshold import Reached


def curve(*scores: float) -> pd.DataFrame:
    steps = np.arange(len(scores)) * 5
    return pd.DataFrame({"step": steps, "tokens": steps * 100.0, "score": scores})


def test_a_threshold_must_be_held():
    lucky = curve(0.1, 0.5, 0.2, 0.4, 0.5, 0.3)
    assert threshold.reached(lucky, 0.4) == Reached(15, True)
    assert threshold.reached(lucky, 0.4, "tokens") == Reached(1500, True)
    assert threshold.reached(lucky, 0.4, held=1) == Reached(5, True)
    assert threshold.reached(lucky, 0.5) == Reached(25, False)
    # The last evaluation alone does not hold it.
    assert threshold.reached(curve(0.1, 0.2, 0.6), 0.5) == Reached(10, False)
    assert threshold.reached(curve(0.6), 0.5) == Reached(0, False)
    with pytest.raises(ValueError, match="increasing step"):
        threshold.reached(lucky.iloc[::-1], 0.4)


def test_the_median_counts_runs_that_never_arrived():
    runs = [Reached(10, True), Reached(20, True), Reached(30, True), Reached(40, False)]
    assert threshold.median_cost(runs)["value"] == 20
    late = [Reached(10, True), *[Reached(40, False)] * 3]
    found = threshold.median_cost(late)
    assert found["value"] is found["high"] is None  # three of four never arrived
    assert threshold.median_cost([Reached(40, False)])["value"] is None
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        times = draw.exponential(1, 40)
        ends = draw.uniform(0.5, 3, 40)
        runs = [Reached(min(t, e), t <= e) for t, e in zip(times, ends, strict=True)]
        found = threshold.median_cost(runs)
        assert found["low"] <= found["value"]
        hits += found["low"] <= np.log(2) and (found["high"] is None or np.log(2) <= found["high"])
    assert 0.92 <= hits / 300 <= 0.99


def test_arms_are_compared_by_the_log_rank_test():
    # Gehan's leukaemia data (Freireich et al. 1963): chi-squared 16.79, as published often.
    drug = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    none = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    first = [Reached(time, number < 9) for number, time in enumerate(drug)]
    second = [Reached(time, True) for time in none]
    assert threshold.compare(first, second) == pytest.approx(stats.chi2.sf(16.793, 1), rel=0.001)
    assert threshold.median_cost(first)["value"] == 23
    assert threshold.median_cost(second)["value"] == 8
    assert threshold.compare([Reached(5, False)], [Reached(5, False)]) is None


def test_area_is_the_mean_score_over_training():
    assert threshold.area(curve(0.0, 1.0)) == pytest.approx(0.5)
    assert threshold.area(curve(0.2, 0.2, 0.8)) == pytest.approx((0.2 + 0.5) / 2)
    assert threshold.area(curve(0.2, 0.2, 0.8), until=7.5) == pytest.approx(
        (0.2 * 5 + 2.5 * (0.2 + 0.5) / 2) / 7.5
    )
    assert threshold.area(curve(0.2, 0.6), "tokens") == pytest.approx(0.4)
    with pytest.raises(ValueError, match="ends elsewhere"):
        threshold.area(curve(0.2, 0.6), until=6)
    with pytest.raises(ValueError, match="ends elsewhere"):
        threshold.area(curve(0.2))


def test_runs_are_paired_by_seed():
    first, second = {0: 5.0, 1: 6.0, 2: 9.0, 7: 1.0}, {0: 4.0, 1: 4.0, 2: 6.0, 8: 0.0}
    found = threshold.paired_seeds(first, second)
    expected = stats.ttest_1samp([1, 2, 3], 0)
    assert found["seeds"] == [0, 1, 2] and found["p"] == pytest.approx(expected.pvalue)
    bounds = expected.confidence_interval()
    assert found["difference"] == pytest.approx(
        {"value": 2, "low": bounds.low, "high": bounds.high}
    )
    assert threshold.paired_seeds({0: 1.0}, {0: 0.5})["difference"]["low"] is None


def test_the_ledger_says_when_a_reused_critic_has_paid():
    own = {"steps": {0: 20.0, 1: 30.0, 2: 25.0}, "memory_bytes": {0: 9.0, 1: 9.0, 2: 9.0}}
    reused = {"steps": {0: 11.0, 1: 20.0, 2: 14.0}, "memory_bytes": {0: 4.0, 1: 4.0, 2: 4.0}}
    steps, memory = savings.ledger(own, reused, {"steps": 25.0}, reuses=2)
    assert steps["saving"]["value"] == 10 and steps["net"]["value"] == -5
    assert steps["net"]["low"] == pytest.approx(2 * steps["saving"]["low"] - 25)
    assert steps["pays_after"] == {"value": 3, "low": 3, "high": 4}
    assert memory["saving"] == {"value": 5, "low": None, "high": None}
    assert memory["charge"] == 0 and memory["pays_after"]["value"] == 0
    (loss,) = savings.ledger({"steps": reused["steps"]}, {"steps": own["steps"]}, {"steps": 25.0})
    assert loss["pays_after"] == {"value": None, "low": None, "high": None}
    exact = {"steps": {0: 25.0}}, {"steps": {0: 20.0}}
    assert savings.ledger(*exact, {"steps": 10.0})[0]["pays_after"]["value"] == 2


def gains(share: float, gain: float, seeds: int, problems: int, studies: int, seed: int):
    """Critic minus constant and oracle minus constant, which share the constant's noise."""
    parts = Components(0.01**2, 0.1**2, 0.1**2)
    constant, own, best = (
        simulate.normal(mean, parts, seeds, problems, studies, seed + number)
        for number, mean in enumerate((0.0, share * gain, gain))
    )
    return own - constant, best - constant


def test_the_share_of_the_oracles_gain_covers():
    hits, defined = 0, 0
    for part, whole in zip(*gains(0.4, 0.1, 5, 60, 300, 0), strict=True):
        found = savings.share_of_oracle(part, whole)
        if found is not None:
            defined += 1
            hits += found["low"] <= 0.4 <= found["high"]
    assert defined > 280
    assert abs(hits / defined - 0.95) <= 2 * np.sqrt(0.95 * 0.05 / defined) + 0.01


def test_the_share_is_fiellers_where_problems_alone_vary():
    draw = np.random.default_rng(3)
    whole = draw.normal(1, 0.5, 30)
    part = 0.5 * whole + draw.normal(0, 0.3, 30)
    found = savings.share_of_oracle(np.tile(part, (4, 1)), np.tile(whole, (4, 1)))
    covariance = np.cov(part, whole) / 30
    square = stats.t.ppf(0.975, 29) ** 2
    roots = np.roots(
        [
            whole.mean() ** 2 - square * covariance[1, 1],
            -2 * (part.mean() * whole.mean() - square * covariance[0, 1]),
            part.mean() ** 2 - square * covariance[0, 0],
        ]
    )
    assert [found["low"], found["high"]] == pytest.approx(sorted(roots), abs=1e-6)
    assert found["value"] == pytest.approx(part.mean() / whole.mean())


def test_no_share_of_a_gain_that_is_not_told_from_zero():
    part, whole = (each[0] for each in gains(0.5, 0.001, 3, 20, 1, 5))
    assert crossed.mean(whole).figure()["low"] < 0
    assert savings.share_of_oracle(part, whole) is None
    assert savings.share_of_oracle(part[:1], whole[:1] + 1) is None  # one seed tells nothing
    half = np.full((3, 4), 0.5)
    assert savings.share_of_oracle(half, 2 * half) == {"value": 0.5, "low": 0.5, "high": 0.5}
    with pytest.raises(ValueError, match="same seeds"):
        savings.share_of_oracle(part, whole[:2])
