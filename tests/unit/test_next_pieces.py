"""Next pieces of a state: which they are, and how a critic is judged by its choice among them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import markov_chain
from checkpoint_writers import tiny_tokenizer
from criticflow import config
from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.models.sampling import Engine
from criticflow.models.saved_critic import SavedCritic
from criticflow.report import tables
from criticflow.stages import critics_table, judge
from criticflow.stages.next_pieces import pieces_of
from criticflow.stages.truth_files import (
    CONTINUATION_COLUMNS,
    read_further,
    vocabulary_hash,
    write_truth,
)
from criticflow.stats import truth_table, value_ranking
from criticflow.stats.value_ranking import of_monte_carlo, of_values
from criticflow.stats.value_references import MONTE_CARLO

TOKENIZER = char_tokenizer(64)


def rank_by(choices: value_ranking.Choices | None) -> dict[str, Any] | None:
    return choices and value_ranking.ranking(*choices)


def tokens(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def two_states() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "state": [4, 9],
            "prompt_index": [0, 1],
            "sample_index": 0,
            "position": [0.0, 0.5],
            "prefix_tokens": [[1, 2], [3, 4, 5]],
            "prefix_length": [0, 1],
        }
    )


def test_a_token_that_ends_the_response_is_no_piece_and_each_counts_once():
    samples = [[[7, 8], [7, 9], [6, 8], [1]], [[5], [5]]]
    found = pieces_of(two_states(), samples, [False, False], TOKENIZER)
    assert list(found["parent"]) == [4, 4] and list(found["state"]) == [0, 1]
    assert list(found["prefix_tokens"]) == [[1, 2, 7], [1, 2, 6]]
    assert list(found["length"]) == [1, 1] == list(found["prefix_length"])
    assert found.loc[0, ["prompt_index", "sample_index", "position"]].tolist() == [0, 0, 0.0]


def test_where_everything_is_over_there_are_no_pieces_and_no_choice(tmp_path):
    found = pieces_of(two_states(), [[[1], [5]], [[1]]], [False, True], TOKENIZER)
    assert found.empty and not value_ranking.has_choices(found)
    assert Engine.continue_from(None, list(found["prefix_tokens"]), 4, 1.0, [], 0) == []
    scores = pd.DataFrame(columns=CONTINUATION_COLUMNS)
    states = truth_table.with_truth(two_states(), scores)
    write_truth(tmp_path, states, scores, {}, pieces=(found, scores))
    assert rank_by(of_values(read_further(tmp_path, "piece"), np.zeros(0), 1.0, ())) is None


def test_lines_go_up_to_their_end():
    drawn = [tokens("ab\nc\nd"), tokens("ab\nx"), tokens("a\nb"), tokens("no end"), tokens("b\n")]
    found = pieces_of(two_states(), [drawn, []], [True, True], TOKENIZER)
    assert list(found["prefix_tokens"]) == [[1, 2, *tokens("ab\n")], [1, 2, *tokens("a\n")]]
    assert list(found["length"]) == [3, 2] and list(found["parent"]) == [4, 4]


# --- on the Markov chain -------------------------------------------------------------------------

TIMES = (0, 2, 4, 6, 8)


def chain(problems: int, continuations: int, seed: int = 0):
    """States of the chain, their two next pieces (a step down, a step up) and what follows.

    Returns pieces, continuations from behind them, and the exact values there.
    """
    draw = np.random.default_rng(seed)
    rows, values, scores = [], [], []
    for problem in range(problems):
        for parent, time in enumerate(TIMES):
            cell = int(draw.integers(1, markov_chain.CELLS - 1))
            for step in (-1, 1):
                rows.append((len(rows), problem * len(TIMES) + parent, problem, time, 1))
                values.append(markov_chain.EXACT[time + 1, cell + step])
                chances = markov_chain.CHANCES[time + 1][cell + step]
                scores.append(draw.choice(markov_chain.SCORES, continuations, p=chances))
    pieces = pd.DataFrame(rows, columns=["state", "parent", "prompt_index", "time", "length"])
    return (
        (pieces, markov_chain.continuations(pieces, np.array(scores))),
        np.array(values),
    )


def test_exact_values_are_hardly_to_be_beaten_and_a_constant_chooses_by_chance():
    found, exact = chain(200, 32)
    best = rank_by(of_values(found, exact, 1.0, MONTE_CARLO))
    constant = rank_by(of_values(found, np.zeros(len(exact)), 1.0, MONTE_CARLO))
    worst = rank_by(of_values(found, -exact, 1.0, MONTE_CARLO))
    ranked = [rank_by(of_monte_carlo(found, k, 1.0, MONTE_CARLO)) for k in MONTE_CARLO]
    regrets = [row["regret"]["value"] for row in (best, *ranked[::-1], constant, worst)]
    assert regrets == sorted(regrets) and len(set(regrets)) == len(regrets)
    assert constant["top1"]["value"] == pytest.approx(0.5) == constant["top1_chance"]["value"]
    assert constant["regret_share"]["value"] == pytest.approx(1)
    # Of two pieces the worst is twice as far from the best as chance is; the gap itself is exact.
    pairs = exact.reshape(-1, 2)
    gap = np.abs(pairs[:, 0] - pairs[:, 1]).mean()
    spread = worst["regret"]["value"] - best["regret"]["value"]
    assert spread == pytest.approx(gap, rel=0.1)
    chance = constant["regret"]["value"]
    assert chance - best["regret"]["value"] == pytest.approx(spread / 2)


def test_all_rows_have_the_same_judges():
    """16 of 32 continuations are Monte Carlo's: what they say moves no other row."""
    (pieces, continuations), exact = chain(20, 32)
    before = rank_by(of_values((pieces, continuations), exact, 1.0, MONTE_CARLO))
    number = continuations.groupby("state").cumcount()
    other = continuations.assign(score=continuations["score"].where(number >= 16, 0.0))
    assert rank_by(of_values((pieces, other), exact, 1.0, MONTE_CARLO)) == before
    chosen = rank_by(of_monte_carlo((pieces, other), 16, 1.0, MONTE_CARLO))
    assert chosen["regret"] == pytest.approx(before["regret_chance"])  # all are 0: by chance
    for name in ("regret_chance", "top1_chance", "states", "problems"):
        assert chosen[name] == before[name]


@pytest.mark.parametrize(("count", "held"), [(32, 16), (31, 4), (8, 4), (4, 1), (3, 1), (2, 0)])
def test_monte_carlo_leaves_as_many_to_judge_as_it_takes(count, held):
    (pieces, continuations), exact = chain(4, count)
    assert value_ranking.kept_to_choose(continuations, MONTE_CARLO) == held
    assert rank_by(of_values((pieces, continuations), exact, 1.0, MONTE_CARLO))
    for k in MONTE_CARLO:
        found = rank_by(of_monte_carlo((pieces, continuations), k, 1.0, MONTE_CARLO))
        assert (found is not None) == (k <= held)


def test_longer_pieces_are_discounted_by_their_tokens():
    """Values are equal behind both pieces, so that only their lengths can choose."""
    pieces = pd.DataFrame(
        {
            "state": range(4),
            "parent": [0, 0, 1, 1],
            "prompt_index": [0, 0, 1, 1],
            "length": [1, 3, 3, 1],
        }
    )
    continuations = pd.DataFrame({"state": np.repeat(range(4), 4), "score": 1.0, "length": 1})
    judged = value_ranking.pieces_truth(pieces, continuations, gamma=0.5)
    assert list(judged["v_a"]) == list(judged["v_b"]) == [0.5, 0.125, 0.125, 0.5]
    found = rank_by(of_values((pieces, continuations), np.ones(4), 0.5, ()))
    assert found["top1"]["value"] == 1 and found["regret"]["value"] == 0
    assert found["regret_chance"]["value"] == pytest.approx(0.1875)


def test_a_single_problem_has_no_ranking():
    (pieces, continuations), exact = chain(1, 4)
    assert rank_by(of_values((pieces, continuations), exact, 1.0, MONTE_CARLO)) is None
    assert rank_by(of_monte_carlo((pieces, continuations), 1, 1.0, MONTE_CARLO)) is None


# --- files, rows and table -----------------------------------------------------------------------

NAME = {"critic": "cold", "kind": "run", "critic_seed": 0, "critic_step": 40}


def write(folder, pieces: bool):
    draw = np.random.default_rng(0)
    states = pd.DataFrame(
        {
            "state": range(8),
            "prompt_index": np.repeat(range(4), 2),
            "sample_index": 0,
            "position": [0.0, 1.0] * 4,
            "prefix_tokens": [draw.integers(3, 67, 3).tolist() for _ in range(8)],
            "prefix_length": [0, 2] * 4,
        }
    )
    scores = markov_chain.continuations(states, draw.choice([0.0, 1.0], (8, 8)))
    behind = pieces_of(
        states,
        [[[number, 5] for number in draw.choice(60, 3, replace=False) + 3] for _ in range(8)],
        [False] * 8,
        tiny_tokenizer(),
    )
    their = markov_chain.continuations(behind, draw.choice([0.0, 1.0], (len(behind), 8)))
    summary = {"actor": "cold", "actor_seed": 0, "actor_step": 40, "task": "mini", "gamma": 1.0}
    summary["vocabulary"] = vocabulary_hash(tiny_tokenizer())
    table = truth_table.with_truth(states, scores)
    write_truth(folder, table, scores, summary, pieces=(behind, their) if pieces else None)
    return behind, their


def unranked(row: dict) -> dict:
    places = [
        {key: item for key, item in place.items() if key != "ranking"}
        for place in row["by_position"]
    ]
    return {**row, "ranking": None, "by_position": places}


def test_rows_say_how_a_critic_chooses_and_nothing_where_there_are_no_pieces(tmp_path, critic):
    folder = tmp_path / "truth"
    saved = SavedCritic(critic, config.Model(path="x"), 1.0)
    found = write(folder, pieces=True)
    first, shuffled = judge.judge_critic(saved, NAME, [folder], "cpu", tmp_path / "out")
    values = judge.state_values(saved.load("cpu"), found[0])
    assert first["ranking"] == rank_by(of_values(found, values, 1.0, MONTE_CARLO))
    assert first["ranking"]["states"] == 8 and shuffled["ranking"] is None
    for place, parents in zip(first["by_position"], ([0, 2, 4, 6], [1, 3, 5, 7]), strict=True):
        here = found[0]["parent"].isin(parents).to_numpy()
        alone = rank_by(of_values((found[0][here], found[1]), values[here], 1.0, MONTE_CARLO))
        assert place["ranking"] == alone and alone["states"] == 4
    rows = critics_table.write_critics_table(
        [tmp_path / "out/rows.json"], [folder], tmp_path / "critics.json"
    )
    assert json.loads((tmp_path / "critics.json").read_text()) == rows
    ranked = {row["critic"]: row["ranking"] for row in rows if row["ranking"]}
    assert list(ranked) == ["cold", "best constant", "Monte Carlo, k = 1", "Monte Carlo, k = 4"]
    assert ranked["best constant"]["regret_share"]["value"] == pytest.approx(1)
    shown = tables.critics(rows)
    assert len(shown.rows[0]) == len(shown.head) == 11
    assert [row[-1].text for row in shown.rows[:2]] == ["33%", "–"]
    # A truth without pieces in the place of one with them.
    write(folder, pieces=False)
    assert read_further(folder, "piece") is None
    again = judge.judge_critic(saved, NAME, [folder], "cpu", tmp_path / "out")
    assert again[0] == unranked(first) and again[0]["ranking"] is None
    others = critics_table.references(folder, again)
    assert {row["ranking"] for row in others} == {None}
    # Rows of before there was a ranking are shown as those that have none.
    del others[0]["ranking"]
    assert len(tables.critics(others).head) == 8
    assert [row[-1].text for row in tables.critics([*others, first]).rows][:2] == ["–", "–"]
