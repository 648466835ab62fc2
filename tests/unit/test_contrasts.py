"""Rows of contrasts: what is said, and when nothing is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from criticflow.stats import contrasts, power
from criticflow.stats.contrasts import Contrast
from criticflow.stats.crossed import Components
from criticflow.stats.improvement import probability_of_improvement

METRIC = "greedy pass@1"


def arm(mean: float, seeds=5, problems=60, seed=0, noise=0.1) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    runs = np.random.default_rng(99).normal(0, 0.05, seeds)  # what arms of one seed share
    values = mean + runs[:, None] + draw.normal(0, noise, (seeds, problems))
    number, problem = np.indices(values.shape)
    return pd.DataFrame(
        {"seed": number.ravel(), "problem": problem.ravel(), METRIC: values.ravel()}
    )


def contrast(name: str, a: str, b: str, kind="secondary", differs_in="critic source") -> Contrast:
    return Contrast(name, a, b, differs_in, kind, METRIC)


ARMS = {
    "constant": arm(0.5, seed=1),
    "warm": arm(0.6, seed=2),
    "same": arm(0.5, seed=3),
    "worse": arm(0.3, seed=4),
}


def test_rows_have_the_agreed_layout_and_say_what_the_interval_allows():
    given = [
        contrast("main", "warm", "constant", "primary"),
        contrast("null", "same", "constant"),
        contrast("down", "worse", "constant"),
        contrast("both", "worse", "constant", "bundle", "critic source, mask"),
    ]
    main, null, down, both = contrasts.rows(given, ARMS)
    for row in (main, null, down, both):
        assert {
            "name", "a", "b", "differs_in", "kind", "metric", "seeds", "difference",
            "probability_of_improvement", "p", "p_holm", "verdict",
        } <= set(row)  # fmt: skip
        assert row["seeds"] == [0, 1, 2, 3, 4]
    assert main["difference"]["value"] == pytest.approx(0.1, abs=0.02)
    assert main["p"] < 0.001 and main["p_holm"] is None  # tested alone
    assert main["verdict"].startswith("better: warm against constant +0.")
    assert "(5 seeds)" in main["verdict"]
    assert null["verdict"].startswith("undecided: a new study of 5 seeds would detect 0.0")
    assert f"{null['detectable']:.3f}" in null["verdict"]
    assert down["verdict"].startswith("worse: worse against constant -0.")
    assert (null["p_holm"], down["p_holm"]) == (null["p"], pytest.approx(2 * down["p"]))
    assert "answers no question" in both["verdict"] and both["p_holm"] is None
    assert main["probability_of_improvement"]["value"] > 0.8


def test_fewer_than_three_seeds_claim_nothing():
    for seeds in (1, 2):
        arms = {"a": arm(0.9, seeds, seed=5), "b": arm(0.1, seeds, seed=6)}
        (row,) = contrasts.rows([contrast("x", "a", "b", "primary")], arms)
        assert row["verdict"].startswith(f"no claim: {seeds} seed")
        assert row["probability_of_improvement"]["low"] is None
        assert (row["p"] is None) == (seeds == 1)
        assert (row["difference"]["low"] is None) == (seeds == 1)


def test_holm_takes_away_a_claim_that_the_interval_alone_would_allow():
    row = {
        "a": "warm", "b": "cold", "metric": METRIC, "seeds": [0, 1, 2], "kind": "secondary",
        "difference": {"value": 0.02, "low": 0.001, "high": 0.039}, "p": 0.04, "p_holm": 0.08,
        "detectable": 0.03,
    }  # fmt: skip
    assert contrasts.verdict(row).startswith("undecided after Holm's correction: a new study")
    assert contrasts.verdict({**row, "p_holm": 0.05}).startswith("better")
    assert contrasts.verdict({**row, "kind": "primary"}).startswith("better")


def test_an_interval_within_the_smallest_effect_on_both_sides_is_called_small():
    row = {
        "a": "warm", "b": "constant", "metric": METRIC, "seeds": [0, 1, 2], "kind": "primary",
        "difference": {"value": -0.01, "low": -0.031, "high": 0.011}, "p": 0.3, "p_holm": None,
        "detectable": 0.03, "sd_seed": 0.02, "sd_problem": 0.1, "sd_rest": 0.3, "problems": 60,
    }  # fmt: skip
    assert contrasts.verdict(row, 0.05).startswith("undecided, and small: -0.010 [-0.031, +0.011]")
    assert contrasts.verdict(row, 0.03).startswith("undecided: ")
    assert contrasts.verdict(row).startswith("undecided: ")


def test_the_smallest_effect_of_interest_says_how_many_seeds():
    given = [contrast("null", "same", "constant", "primary")]
    (row,) = contrasts.rows(given, ARMS, smallest_effect=0.03)
    parts = Components(*(row[name] ** 2 for name in ("sd_seed", "sd_problem", "sd_rest")))
    needed = power.seeds_needed(0.03, parts, 60)
    assert row["verdict"] == (
        f"undecided: a new study of {needed} seeds would detect 0.030 at 80 % power"
    )
    hard = {name: table.assign(**{METRIC: table[METRIC]}) for name, table in ARMS.items()}
    twist = np.random.default_rng(1).normal(0, 1, 60)
    hard["same"][METRIC] += twist[hard["same"]["problem"]] - twist.mean()
    (row,) = contrasts.rows(given, hard, smallest_effect=0.03)
    assert row["verdict"] == (
        "undecided: no number of seeds would detect 0.030 at 80 % power on 60 problems"
    )


def test_arms_that_answer_alike_are_not_called_undecided():
    arms = {"a": ARMS["warm"], "b": ARMS["warm"]}
    (row,) = contrasts.rows([contrast("x", "a", "b")], arms)
    assert row["p"] == 1.0 and row["verdict"].startswith("no difference was seen")


def test_an_arm_without_scores_is_named():
    with pytest.raises(ValueError, match="contrast x: no scores of oracle"):
        contrasts.rows([contrast("x", "oracle", "warm")], ARMS)


def test_holm_against_published_values():
    # R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert contrasts.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert contrasts.holm([0.6, 0.9]) == [1.0, 1.0]
    assert contrasts.holm([]) == []


def test_holm_holds_the_chance_of_any_false_claim():
    draw = np.random.default_rng(0)
    false = sum(min(contrasts.holm(draw.random(6))) <= 0.05 for _ in range(2000))
    assert false / 2000 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


def test_probability_of_improvement_is_mann_whitneys():
    one, other = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 2.5])
    found = probability_of_improvement(one, other)
    assert found["value"] == pytest.approx(stats.mannwhitneyu(one, other).statistic / 12)
    back = probability_of_improvement(other, one)
    assert [back["low"], back["high"]] == pytest.approx([1 - found["high"], 1 - found["low"]])
    apart = probability_of_improvement([1, 2, 3], [4, 5, 6])
    assert (apart["value"], apart["low"]) == (0, 0) and 0.5 < apart["high"] < 1
    assert probability_of_improvement([1], [0]) == {"value": 1.0, "low": None, "high": None}
    same = probability_of_improvement([1, 1, 1], [1, 1, 1])
    assert same["value"] == 0.5 and same["low"] > 0


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_its_interval_covers_at_least_as_stated(seeds):
    draw = np.random.default_rng(seeds)
    for shift in (0.0, 1.0, 2.0):
        truth, hits = stats.norm.cdf(shift / np.sqrt(2)), 0
        for _ in range(300):
            found = probability_of_improvement(
                draw.normal(shift, 1, seeds), draw.normal(0, 1, seeds)
            )
            hits += found["low"] <= truth <= found["high"]
        assert hits / 300 >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 300), shift


def test_a_contrast_with_a_constant_says_which_share_of_an_oracles_gain_it_has():
    arms = ARMS | {"oracle": arm(0.7, seed=5)}
    half = Contrast("half", "warm", "constant", "critic source", "primary", METRIC, "oracle")
    none = Contrast("none", "same", "constant", "critic source", "secondary", METRIC, "worse")
    (row,) = contrasts.rows([half], arms)
    share = row["share_of_oracle"]
    assert row["oracle"] == "oracle"
    assert share["value"] == pytest.approx(0.5, abs=0.05)
    assert 0.3 < share["low"] < share["value"] < share["high"] < 0.7
    assert contrasts.rows([none], arms)[0]["share_of_oracle"] is None  # it gains nothing
    assert contrasts.rows([contrast("plain", "warm", "constant")], arms)[0]["oracle"] is None
    few = arms | {"oracle": arm(0.7, seeds=2, seed=5)}
    assert contrasts.rows([half], few)[0]["share_of_oracle"] is None
