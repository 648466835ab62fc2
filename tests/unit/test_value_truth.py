"""A critic against the truth: exact values of a Markov chain, closed forms, scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import markov_chain as chain
from criticflow.stats import truth_table, value_calibration, value_references, value_rows
from criticflow.stats import value_truth as critic_truth

DRAWS = 1000
TOLERANCE = 2 * np.sqrt(0.95 * 0.05 / DRAWS)  # two standard errors of a simulated coverage
ACTOR = {"actor": "cold", "actor_seed": 0, "actor_step": 20, "task": "line", "gamma": 1.0}


def wavy(time: int, cell: int) -> float:
    """A critic with bias, a slope and errors of its own."""
    return 0.15 + 0.8 * chain.EXACT[time, cell] + 0.12 * np.sin(5 * cell + 3 * time)


def exact_figures(critic) -> dict[str, float]:
    known = chain.truth(critic)
    mse, variance, noise = known["mse"], known["variance"], known["return_variance"]
    centred = 1 - (mse - known["bias"] ** 2) / variance
    ceiling = variance / (variance + noise)
    return {
        **known,
        "share_explained": 1 - mse / variance,
        "share_centred": centred,
        "explained_variance": centred * ceiling,
        "explained_variance_ceiling": ceiling,
        "worth_in_rollouts": noise / mse,
        "constant_worth": noise / variance,
    }


def simulated(critic, names, seed, problems=64, continuations=32, draws=DRAWS):
    """Estimates ``(draws,)`` and coverage of each figure."""
    known = exact_figures(critic)
    found = {name: [] for name in names}
    hits = dict.fromkeys(names, 0)
    for draw in range(draws):
        states, _, values = chain.table(problems, continuations, seed + draw, critic)
        row = critic_truth.ratios(critic_truth.base(states, values))
        for name in names:
            value, low, high = (row[name][bound] for bound in ("value", "low", "high"))
            found[name].append(np.nan if value is None else value)
            hits[name] += (low is None or low <= known[name]) and (
                high is None or known[name] <= high
            )
    return {name: np.array(column) for name, column in found.items()}, hits


def test_intervals_cover_exact_figures_at_their_rate_and_estimates_have_no_bias():
    names = list(exact_figures(wavy))
    found, hits = simulated(wavy, names, 100_000)
    for name in names:
        assert abs(hits[name] / DRAWS - 0.95) <= TOLERANCE, (name, hits[name])
    known = exact_figures(wavy)
    for name in ("bias", "mse", "variance", "return_variance"):
        error = found[name].std(ddof=1) / np.sqrt(DRAWS)
        assert abs(found[name].mean() - known[name]) <= 3 * error, name


def test_exact_values_score_no_error_and_the_whole_share():
    found, _ = simulated(None, ["mse", "share_explained", "share_centred"], 900_000, 16, 8, 300)
    error = found["mse"].std(ddof=1) / np.sqrt(300)
    assert abs(found["mse"].mean()) <= 3 * error
    states, _, values = chain.table(400, 32, 1)
    row = critic_truth.figures(states, values)
    for share in ("share_explained", "share_centred"):
        assert row[share]["low"] <= 1 <= row[share]["high"]
        assert row[share]["high"] - row[share]["low"] < 0.01
    worth = row["worth_in_rollouts"]
    assert worth["high"] is None or worth["high"] > 500


def test_the_constant_mean_has_share_0_and_the_floor_as_worth():
    states, _, _ = chain.table(64, 32, 2)
    row = value_references.constant(states)
    for place in (row, *row["by_position"]):
        for share in ("share_explained", "share_centred", "explained_variance"):
            assert place[share]["value"] == pytest.approx(0, abs=1e-12)
        assert place["worth_in_rollouts"] == place["constant_worth"]
    # Given as a critic, the mean over all problems is judged by the formula.
    known = chain.truth(lambda time, cell: 0.0)
    mean = lambda time, cell: -known["bias"]  # noqa: E731
    found, hits = simulated(mean, ["mse", "share_explained"], 300_000, 16, 8, 300)
    assert exact_figures(mean)["share_explained"] == pytest.approx(0)
    error = found["mse"].std(ddof=1) / np.sqrt(300)
    assert abs(found["mse"].mean() - known["variance"]) <= 3 * error
    assert hits["share_explained"] / 300 >= 0.95 - TOLERANCE


def test_exact_values_shuffled_have_share_minus_1_at_every_position():
    found = []
    for draw in range(100):
        states, _, values = chain.table(64, 32, 400_000 + draw, times=(4,))
        found.append(value_references.shuffled(states, values)["share_explained"]["value"])
    assert abs(np.mean(found) + 1) <= 3 * np.std(found) / np.sqrt(len(found)) + 0.005
    states, _, values = chain.table(64, 256, 5)
    row = value_references.shuffled(states, values)
    for place in row["by_position"]:
        assert place["share_explained"]["value"] == pytest.approx(-1, abs=0.03)


def test_shuffling_in_closed_form_is_the_mean_over_permutations():
    states, _, values = chain.table(5, 8, 3, wavy, times=(0, 6))
    row = value_references.shuffled(states, values)
    truth, noise = states["v_mc"].to_numpy(), states["v_se"].to_numpy() ** 2
    squares = []
    for shift in range(1, 5):
        moved = np.concatenate([np.roll(values[:5], shift), np.roll(values[5:], shift)])
        squares.append((moved - truth) ** 2)
    assert row["mse"]["value"] == pytest.approx(np.mean(squares) - noise.mean())
    few, _, some = chain.table(3, 8, 3, wavy)
    assert value_references.shuffled(few, some) is None


def test_the_error_of_monte_carlo_falls_as_one_over_k():
    states, scores, _ = chain.table(2000, 64, 6, times=(0, 6))
    known = states["v_se"].pow(2).mean() * 64
    for k in (1, 4, 16):
        row = value_references.monte_carlo(states, k)
        assert row["mse"]["value"] == pytest.approx(known / k, rel=1e-4)
        assert row["worth_in_rollouts"] == {"value": k, "low": k, "high": k}
        # The closed form is the error of a mean of k draws as a critic, on the other continuations.
        others = states.assign(
            v_mc=scores[:, k:].mean(1),
            v_se=scores[:, k:].std(1, ddof=1) / np.sqrt(64 - k),
            n=64 - k,
        )
        found = critic_truth.ratios(critic_truth.base(others, scores[:, :k].mean(1)))
        assert found["mse"]["value"] == pytest.approx(row["mse"]["value"], rel=0.06)
        assert found["worth_in_rollouts"]["value"] == pytest.approx(k, rel=0.06)


def test_worth_is_null_where_it_is_unbounded_or_returns_are_certain():
    seeds = range(700, 720)  # the unbiased mse of exact values is below 0 in half of the draws
    tables = [chain.table(64, 32, seed) for seed in seeds]
    rows = [critic_truth.ratios(critic_truth.base(states, values)) for states, _, values in tables]
    below = next(row for row in rows if row["mse"]["value"] < 0 < row["mse"]["high"])
    assert below["worth_in_rollouts"]["value"] is below["worth_in_rollouts"]["high"] is None
    assert below["worth_in_rollouts"]["low"] > 100
    states, _, values = tables[0]
    certain = states.assign(v_mc=values, v_se=0.0)
    row = critic_truth.figures(certain, values + 0.1)
    assert row["return_variance"]["value"] == 0
    for name in ("worth_in_rollouts", "constant_worth"):
        assert row[name] == {"value": None, "low": None, "high": None}
    same = certain.assign(v_mc=0.5)
    assert critic_truth.figures(same, values)["share_explained"]["value"] is None


def test_the_worth_inverts_the_interval_of_its_inverse():
    states, _, values = chain.table(64, 32, 8, wavy)
    found = critic_truth.base(states, values)
    inverse = found.ratio(critic_truth.MSE, critic_truth.NOISE)
    worth = critic_truth.ratios(found)["worth_in_rollouts"]
    assert worth["value"] == pytest.approx(1 / inverse["value"])
    assert (worth["low"], worth["high"]) == (1 / inverse["high"], 1 / inverse["low"])


def test_explained_variance_is_that_of_fresh_returns():
    states, scores, values = chain.table(3000, 8, 9, wavy)
    row = critic_truth.ratios(critic_truth.base(states, values))
    fresh, guess = scores.ravel(), np.repeat(values, 8)
    expected = 1 - np.var(fresh - guess) / np.var(fresh)
    assert row["explained_variance"]["value"] == pytest.approx(expected, abs=0.002)
    perfect = critic_truth.ratios(critic_truth.base(states, chain.table(3000, 8, 9)[2]))
    ceiling = perfect["explained_variance_ceiling"]["value"]
    assert perfect["explained_variance"]["value"] == pytest.approx(ceiling, abs=0.01)


def test_ranks_are_scipys_and_halves_are_disjoint():
    states, scores, values = chain.table(64, 32, 10, wavy)
    table = chain.continuations(states, scores)
    row = critic_truth.figures(states, values, table)
    expected = stats.spearmanr(values, states["v_mc"].round(12)).statistic
    assert row["spearman"]["value"] == pytest.approx(expected)
    assert row["spearman"]["low"] < expected < row["spearman"]["high"]
    halves = scores[:, ::2].mean(1).round(12), scores[:, 1::2].mean(1).round(12)
    expected = stats.spearmanr(*halves).statistic
    assert row["spearman_halves"]["value"] == pytest.approx(expected)
    carlo = value_references.monte_carlo(states, 4, table)
    halves = scores[:, :4].mean(1).round(12), scores[:, 4:].mean(1).round(12)
    expected = stats.spearmanr(*halves).statistic
    assert carlo["spearman"]["value"] == pytest.approx(expected)
    constant = critic_truth.figures(states, np.full(len(states), 0.3))
    assert constant["spearman"]["value"] is None


def test_moments_are_numpys_and_scipys_where_every_problem_has_one_state():
    states, _, values = chain.table(50, 16, 11, wavy, times=(6,))
    truth, noise = states["v_mc"].to_numpy(), states["v_se"].to_numpy() ** 2
    row = critic_truth.figures(states, values)
    assert row["variance"]["value"] == pytest.approx(np.var(truth, ddof=1) - noise.mean())
    test = stats.ttest_1samp(values - truth, 0).confidence_interval(0.95)
    assert [row["bias"]["low"], row["bias"]["high"]] == pytest.approx([test.low, test.high])
    line = stats.linregress(values, truth)
    found = value_calibration.line(states, values)
    assert found["slope"]["value"] == pytest.approx(line.slope)
    assert found["intercept"]["value"] == pytest.approx(line.intercept, abs=0.01)
    assert found["slope"]["low"] < line.slope < found["slope"]["high"]


def test_calibration_of_a_critic_that_is_too_sure():
    sure = lambda time, cell: 2 * chain.EXACT[time, cell] - 0.3  # noqa: E731
    hits = 0
    for draw in range(150):
        states, _, values = chain.table(64, 32, 500_000 + draw, sure)
        found = value_calibration.line(states, values)
        hits += found["slope"]["low"] <= 0.5 <= found["slope"]["high"]
        hits += found["intercept"]["low"] <= 0.15 <= found["intercept"]["high"]
    assert 0.915 <= hits / 300 <= 0.985
    bins = value_calibration.bins(states, values)
    assert sum(row["states"] for row in bins) == len(states)
    middle = [row["mean_value"] for row in bins]
    assert middle == sorted(middle)
    for row in bins:
        assert row["mean_truth"]["value"] == pytest.approx((row["mean_value"] + 0.3) / 2, abs=0.1)
    assert value_calibration.line(states, np.ones(len(states)))["slope"]["value"] is None


def test_references_know_what_they_should():
    states, scores, _ = chain.table(64, 32, 12)
    table = chain.continuations(states, scores)
    place = value_references.position_values(states)
    others = states[(states["prompt_index"] != 3) & (states["position"] == 0.4)]
    at = (states["prompt_index"] == 3) & (states["position"] == 0.4)
    assert place[at] == pytest.approx([others["v_mc"].mean()])
    kept, means = value_references.prompt_mean(states, table)
    prompt = kept["position"] == 0
    assert len(kept) == len(states)
    start = scores[:64]
    assert means[prompt] == pytest.approx(start[:, ::2].mean(1))
    assert kept.loc[prompt, "v_mc"].to_numpy() == pytest.approx(start[:, 1::2].mean(1))
    row = critic_truth.figures(kept, means)
    shares = [found["share_explained"]["value"] for found in row["by_position"]]
    assert shares[0] > 0.5 > shares[-1]
    no_prompt = states[states["position"] > 0]
    assert value_references.prompt_mean(no_prompt, table) is None


def test_prompt_mean_has_the_error_of_its_responses():
    """At the prompt the error of 16 responses is that of Monte Carlo with k = 16."""
    errors = []
    for draw in range(100):
        states, scores, _ = chain.table(64, 32, 600_000 + draw, times=(0,))
        found = value_references.prompt_mean(states, chain.continuations(states, scores))
        errors.append(critic_truth.base(*found).mean[1])
    start = chain.CHANCES[0][1:-1]
    single = (start @ chain.SCORES**2 - (start @ chain.SCORES) ** 2).mean()
    assert np.mean(errors) == pytest.approx(single / 16, abs=3 * np.std(errors) / np.sqrt(100))


def test_rows_have_the_agreed_layout():
    states, scores, values = chain.table(20, 8, 13, wavy)
    table = chain.continuations(states, scores)
    critic = {"critic": "cold", "kind": "run", "critic_seed": 0, "critic_step": 20}
    rows = value_rows.critic_rows(critic, ACTOR, states, values, table)
    rows += value_rows.reference_rows(ACTOR, states, table)
    assert [row["kind"] for row in rows] == [
        "run", "shuffled", "constant", "position", "prompt_mean", *["monte_carlo"] * 3,
    ]  # fmt: skip
    names = {
        "bias", "mse", "share_explained", "share_centred", "explained_variance",
        "explained_variance_ceiling", "spearman", "worth_in_rollouts", "constant_worth",
    }  # fmt: skip
    for row in rows:
        assert {*ACTOR, "critic", "kind", "critic_seed", "critic_step"} <= set(row)
        assert len(row["by_position"]) == len(chain.TIMES)
        for place in (row, *row["by_position"]):
            for name in names:
                assert set(place[name]) == {"value", "low", "high"}
                assert all(type(bound) in (float, type(None)) for bound in place[name].values())
        assert "position" in row["by_position"][0]
    assert rows[0]["critic_step"] == 20 and rows[2]["critic_step"] is None


def test_a_critic_of_masked_rewards_is_right_about_masked_returns():
    states, _, values = chain.table(64, 32, 14)
    half = truth_table.scaled(states, 0.5)
    found = critic_truth.base(half, values / 2)
    assert found.linear(critic_truth.MSE)["value"] == pytest.approx(0, abs=0.001)
    found = critic_truth.base(states, values / 2)
    assert found.linear(critic_truth.MSE)["value"] > 0.05


def test_returns_are_discounted_by_the_tokens_that_remain():
    table = pd.DataFrame({"state": [0, 0, 1], "score": [1.0, 0.5, 1.0], "length": [1, 3, 2]})
    assert truth_table.returns(table, 0.5) == pytest.approx([1, 0.125, 0.5])
    found = truth_table.estimates(table, 0.5)
    assert found.loc[0, "v_mc"] == pytest.approx(0.5625)
    assert found.loc[0, "v_se"] == pytest.approx(stats.sem([1, 0.125]))
    assert np.isnan(found.loc[1, "v_se"])


def test_many_positions_are_binned():
    place = np.linspace(0, 1, 101)
    found = truth_table.positions(pd.DataFrame({"position": place}))
    assert [position for position, _ in found] == pytest.approx(np.arange(10) / 10 + 0.05)
    assert np.sum([rows for _, rows in found], axis=0).tolist() == [1] * 101


def test_what_cannot_be_judged_is_refused():
    states, scores, values = chain.table(8, 8, 15)
    for wrong in (values[:-1], values * np.nan):
        with pytest.raises(ValueError):
            critic_truth.figures(states, wrong)
    with pytest.raises(ValueError, match="continuations"):
        critic_truth.figures(states.assign(v_se=np.nan), values)
    with pytest.raises(ValueError, match="two problems"):
        critic_truth.figures(
            states[states["prompt_index"] == 0], values[states["prompt_index"] == 0]
        )
    with pytest.raises(ValueError, match="too few"):
        critic_truth.figures(states, values, chain.continuations(states, scores[:, :1]))
