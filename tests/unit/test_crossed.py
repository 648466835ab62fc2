"""The crossed model against least squares, scipy's special cases, and 1,000 synthetic studies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from criticflow.stats import crossed, power, simulate
from criticflow.stats.crossed import Components

STUDIES = 1000
TOLERANCE = 2 * np.sqrt(0.95 * 0.05 / STUDIES)  # two standard errors of a simulated rate
SEEDS = (3, 5, 10)


def scores(seeds=4, problems=7, seed=0):
    return simulate.normal(0.1, Components(0.04, 0.09, 0.16), seeds, problems, 1, seed)[0]


def test_mean_squares_are_those_of_least_squares():
    table = scores()
    seeds, problems = np.indices(table.shape)
    y = table.ravel()

    def left_over(*factors) -> float:
        columns = [np.ones((y.size, 1))]
        columns += [np.eye(4)[seeds.ravel()] for factor in factors if factor == "seed"]
        columns += [np.eye(7)[problems.ravel()] for factor in factors if factor == "problem"]
        design = np.concatenate(columns, axis=1)
        return float(np.sum((y - design @ np.linalg.lstsq(design, y)[0]) ** 2))

    both = left_over("seed", "problem")
    expected = (
        (left_over("problem") - both) / 3,
        (left_over("seed") - both) / 6,
        both / 18,
    )
    assert crossed.mean_squares(table) == pytest.approx(expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_where_one_factor_varies_it_is_the_t_test_over_it(axis):
    each = np.random.default_rng(1).normal(0.2, 1, 8)
    table = np.broadcast_to(each[:, None] if axis == 0 else each, (8, 5) if axis == 0 else (5, 8))
    found = crossed.mean(table)
    expected = stats.ttest_1samp(each, 0)
    assert float(found.df) == pytest.approx(7)
    assert float(found.p_value()) == pytest.approx(expected.pvalue)
    bounds = expected.confidence_interval(0.95)
    assert found.interval() == pytest.approx((bounds.low, bounds.high))


def test_satterthwaites_df_and_error_by_hand():
    table = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 7.0]])
    of_seed, of_problem, of_rest = 1.5, 27 / 2, 1 / 2  # sums of squares 1.5, 27, 1
    total = of_seed + of_problem - of_rest
    df = total**2 / (of_seed**2 / 1 + of_problem**2 / 2 + of_rest**2 / 2)
    assert crossed.mean_squares(table) == pytest.approx((of_seed, of_problem, of_rest))
    found = crossed.mean(table)
    assert float(found.error) == pytest.approx(np.sqrt(total / 6))
    assert float(found.df) == pytest.approx(df)
    assert crossed.components(table) == Components(*map(pytest.approx, (1 / 3, 13 / 2, 1 / 2)))


def test_interval_and_p_come_from_the_same_t():
    studies = simulate.normal(0.03, simulate.REALISTIC, 5, 40, 300, 2)
    found = crossed.mean(studies)
    low, high = found.interval()
    assert np.array_equal((low > 0) | (high < 0), found.p_value() < 0.05)


def test_a_negative_component_is_none_and_does_not_shrink_the_error():
    # In every problem the seeds take turns: the seeds' means are equal, less than chance allows.
    table = np.array([[0.0, 1.0] * 4, [1.0, 0.0] * 4]) + np.arange(8) / 4
    found, parts = crossed.mean(table), crossed.components(table)
    assert parts.seed == 0 and parts.rest > 0
    _, of_problem, _ = crossed.mean_squares(table)
    assert float(found.error) == pytest.approx(np.sqrt(of_problem / 16))


def test_one_seed_has_no_interval():
    found = crossed.mean(np.array([[0.1, 0.3, 0.2]]))
    assert found.figure() == {"value": pytest.approx(0.2), "low": None, "high": None}
    assert np.isnan(found.p_value())
    assert crossed.components(np.array([[0.1, 0.3]])) is None
    arm = crossed.arm(np.array([[0.1, 0.3]]))
    assert arm["sd_seed"] is None and arm["mean"]["low"] is None


def test_equal_scores_are_told_without_a_warning(recwarn):
    found = crossed.mean(np.full((3, 4), 0.0))
    assert found.figure() == {"value": 0, "low": 0, "high": 0}
    assert float(found.p_value()) == 1
    always = crossed.mean(np.full((3, 4), 0.5))
    assert float(always.p_value()) == 0
    assert not recwarn.list


def test_an_arm_has_mean_iqm_and_variances_apart():
    parts = Components(0.02**2, 0.3**2, 0.4**2)
    table = simulate.normal(0.5, parts, 200, 400, 1, 3)[0]
    found = crossed.arm(table)
    assert found["sd_seed"] == pytest.approx(0.02, rel=0.15)
    assert found["sd_problem"] == pytest.approx(0.3, rel=0.1)
    assert found["sd_rest"] == pytest.approx(0.4, rel=0.02)
    ten = crossed.arm(np.arange(10.0)[:, None] ** 2 + np.zeros(3))
    assert ten["iqm"] == pytest.approx(np.mean(np.arange(2.0, 8) ** 2))


def test_tables_become_grids_and_pairs():
    rows = [(seed, problem, seed + problem / 10) for seed in (2, 0, 1) for problem in (5, 3)]
    table = pd.DataFrame([*rows, (0, 3, 1.3)], columns=["seed", "problem", "score"])
    cells, seeds, problems = crossed.grid(table)
    assert (seeds, problems) == ([0, 1, 2], [3, 5])
    assert cells.tolist() == [[0.8, 0.5], [1.3, 1.5], [2.3, 2.5]]  # two samples averaged
    other = table.assign(score=0.0, seed=table["seed"] + 1)
    found, common = crossed.paired(table, other)
    assert common == [1, 2] and found.tolist() == cells[1:].tolist()
    with pytest.raises(ValueError, match=r"seeds \[2\]"):
        crossed.grid(table.iloc[1:])
    with pytest.raises(ValueError, match="common seed"):
        crossed.paired(table, table.assign(seed=table["seed"] + 5))
    with pytest.raises(ValueError, match="same problems"):
        crossed.paired(table, table.assign(problem=table["problem"] + 1))


@pytest.mark.parametrize("seeds", SEEDS)
def test_coverage_and_false_claims_of_realistic_studies(seeds):
    for effect in (0.0, 0.03):
        studies = simulate.normal(effect, simulate.REALISTIC, seeds, 512, STUDIES, seeds)
        found = simulate.rates(studies, effect)
        assert abs(found.coverage - 0.95) <= TOLERANCE, found
        if not effect:
            assert abs(found.claims - 0.05) <= TOLERANCE, found
        else:
            assert found.claims > 0.1 and found.wrong_side <= 0.025 + TOLERANCE


@pytest.mark.parametrize("seeds", SEEDS)
def test_false_claims_on_right_and_wrong_answers(seeds):
    studies = simulate.answers(0.0, 0.02, seeds, 256, STUDIES, seeds)
    found = simulate.rates(studies, 0.0)
    assert found.claims <= 0.05 + TOLERANCE
    studies = simulate.answers(0.05, 0.02, seeds, 256, STUDIES, seeds)
    assert simulate.rates(studies, 0.05).coverage >= 0.95 - TOLERANCE


@pytest.mark.parametrize(
    ("parts", "least"),
    [
        (Components(0.02**2, 0.0, 0.01**2), 0.95),  # seeds alone
        (Components(0.0, 0.3**2, 0.4**2), 0.95),  # seeds alike
        (Components(0.0, 0.0, 0.4**2), 0.95),  # noise alone
        (Components(0.05**2, 0.1**2, 0.3**2), 0.935),  # the worst that was found
    ],
)
def test_coverage_whichever_varies(parts, least):
    for seeds in SEEDS:
        found = simulate.rates(simulate.normal(0, parts, seeds, 256, STUDIES, seeds + 1), 0)
        assert least - TOLERANCE <= found.coverage <= 0.99


def test_the_percentile_bootstrap_over_seeds_covers_too_little():
    found = [
        simulate.bootstrap_rates(
            simulate.normal(0, Components(0.02**2, 0, 0), seeds, 2, STUDIES, seeds), 0, 1
        ).coverage
        for seeds in SEEDS
    ]
    assert found == sorted(found)
    assert found == pytest.approx([0.76, 0.84, 0.89], abs=0.035)


def test_power_is_that_of_the_t_test_where_seeds_alone_vary():
    seeds_only = Components(1.0, 0.0, 0.0)
    # Cohen (1988): a paired t test of d = 0.5 needs 34 pairs for 80 % power at 0.05.
    assert power.seeds_needed(0.5, seeds_only, 100) == 34
    assert power.power(0.5, seeds_only, 34, 100) == pytest.approx(0.808, abs=0.001)
    assert power.power(0.0, seeds_only, 5, 100) == pytest.approx(0.05)
    assert power.detectable(seeds_only, 34, 100) == pytest.approx(0.495, abs=0.001)


def test_power_is_that_of_the_t_test_where_problems_alone_vary():
    problems_only = Components(0.0, 1.0, 0.0)
    error, df = power.standard_error(problems_only, 5, 34)
    assert (error, df) == (pytest.approx(34**-0.5), pytest.approx(33))
    assert power.power(0.5, problems_only, 5, 34) == pytest.approx(0.808, abs=0.001)


def test_power_is_what_simulated_studies_have():
    for seeds in (5, 10):
        effect = power.detectable(simulate.REALISTIC, seeds, 256)
        studies = simulate.normal(effect, simulate.REALISTIC, seeds, 256, STUDIES, 11)
        assert simulate.rates(studies, effect).claims == pytest.approx(0.8, abs=0.04)


def test_more_seeds_do_not_help_against_problems_that_differ():
    parts = Components(0.02**2, 0.3**2, 0.4**2)
    floor = power.detectable(parts, power.MOST_SEEDS, 256)
    assert floor == pytest.approx(2.8 * 0.3 / 16, rel=0.02)
    assert power.seeds_needed(floor * 0.99, parts, 256) is None
    needed = power.seeds_needed(0.06, parts, 256)
    assert power.detectable(parts, needed, 256) <= 0.06 < power.detectable(parts, needed - 1, 256)
    assert power.seeds_needed(5.0, parts, 256) == 3
    with pytest.raises(ValueError, match="two seeds"):
        power.detectable(parts, 1, 256)
    nothing = Components(0.0, 0.0, 0.0)
    assert power.detectable(nothing, 3, 10) == 0.0
