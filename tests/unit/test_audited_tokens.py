"""Advantages against true ones: which tokens are audited, and what is said of a critic there."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import markov_chain
from checkpoint_writers import tiny_tokenizer
from criticflow import config
from criticflow.models.saved_critic import SavedCritic
from criticflow.models.token_values import token_values
from criticflow.report import tables
from criticflow.stages import critics_table, judge
from criticflow.stages.audited_tokens import tokens_of
from criticflow.stages.truth_files import read_further, vocabulary_hash, write_truth
from criticflow.stats import advantage_audit, advantage_references, truth_table


def responses(*lengths: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt_index": [5 + row for row in range(len(lengths))],
            "sample_index": 0,
            "prompt_tokens": [[40 + row] * 2 for row in range(len(lengths))],
            "tokens": [list(range(3, 3 + length)) for length in lengths],
            "score": [row / 4 for row in range(len(lengths))],
            "correct": False,
        }
    )


def test_every_token_of_the_first_short_responses_is_a_state():
    found = tokens_of(responses(2, 9, 3, 1, 1), 3, longest=8)
    assert list(found["state"]) == [0, 1, 2, 3, 4, 5]
    assert list(found["trajectory"]) == [0, 0, 1, 1, 1, 2]
    assert list(found["prompt_index"]) == [5, 5, 7, 7, 7, 8]
    assert list(found["score"]) == [0, 0, 0.5, 0.5, 0.5, 0.75]
    assert list(found["token"]) == [0, 1, 0, 1, 2, 0] == list(found["prefix_length"])
    assert found["prefix_tokens"][0] == [40, 40] and found["prefix_tokens"][4] == [42, 42, 3, 4]


def chain(problems: int, continuations: int = 32):
    """Trajectories of the chain with every step a token, and the exact value before each."""
    draw = np.random.default_rng(0)
    rows, scores, exact = [], [], []
    for problem in range(problems):
        cell, cells = int(draw.integers(1, markov_chain.CELLS - 1)), []
        for _ in range(markov_chain.STEPS):
            cells.append(cell)
            cell = int(draw.choice(markov_chain.CELLS, p=markov_chain.STEP[cell]))
        score = markov_chain.EXACT[-1][cell]
        for time, here in enumerate(cells):
            rows.append((len(rows), problem, problem, score))
            exact.append(markov_chain.EXACT[time][here])
            chances = markov_chain.CHANCES[time][here]
            scores.append(draw.choice(markov_chain.SCORES, continuations, p=chances))
    tokens = pd.DataFrame(rows, columns=["state", "trajectory", "prompt_index", "score"])
    return (tokens, markov_chain.continuations(tokens, np.array(scores))), np.array(exact)


def test_exact_values_have_the_true_advantages_and_the_constant_is_the_floor():
    found, exact = chain(300)
    at_one, at_zero = advantage_audit.of_values(found, exact, 1.0)
    assert (at_one["lambda"], at_zero["lambda"]) == (1.0, 0.0)
    assert at_zero["mse"]["low"] <= 0 <= at_zero["mse"]["high"]
    assert at_zero["correlation"]["value"] == pytest.approx(1, abs=0.03)
    assert at_zero["variance"]["value"] == pytest.approx(at_zero["true_variance"]["value"], rel=0.1)
    # Exact values at lambda 1 add what later tokens bring, of mean 0 and independent of this one.
    later = at_one["variance"]["value"] - at_zero["variance"]["value"]
    assert at_one["mse"]["value"] == pytest.approx(later, rel=0.1)
    assert at_zero["correlation"]["value"] > at_one["correlation"]["value"] > 0.3
    floor = advantage_audit.of_values(found, None, 1.0)
    mean = found[1]["score"].mean()
    assert floor == advantage_audit.of_values(found, np.full(len(exact), mean), 1.0)
    for best, worst in zip((at_one, at_zero), floor, strict=True):
        assert worst["mse"]["value"] > best["mse"]["value"]
        assert worst["correlation"]["value"] < best["correlation"]["value"]
    assert floor[0]["tokens"] == 3000 and floor[0]["problems"] == 300


def test_a_single_problem_has_no_audit():
    found, exact = chain(1, 4)
    assert advantage_audit.of_values(found, exact, 1.0) is None


NAME = {"critic": "cold", "kind": "run", "critic_seed": 0, "critic_step": 40}


def write(folder, audited: bool) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    frame = responses(5, 7, 4, 6)
    tokens = tokens_of(frame, 4, 8)
    scores = markov_chain.continuations(tokens, draw.choice([0.0, 1.0], (len(tokens), 8)))
    states = tokens[tokens["token"] == 0].assign(position=0.0)
    summary = {"actor": "cold", "actor_seed": 0, "actor_step": 40, "task": "mini", "gamma": 1.0}
    summary["temperature"] = 1.0
    summary["vocabulary"] = vocabulary_hash(tiny_tokenizer())
    known = scores[scores["state"].isin(states["state"])]
    table = truth_table.with_truth(states, known)
    more = (tokens, scores) if audited else None
    write_truth(folder, table, known, summary, frame, tokens=more)
    return frame


def test_rows_have_the_audit_of_the_critic_and_of_the_floor(tmp_path, critic):
    folder = tmp_path / "truth"
    saved = SavedCritic(critic, config.Model(path="x"), 0.9)
    frame = write(folder, audited=True)
    first, shuffled = judge.judge_critic(saved, NAME, [folder], "cpu", tmp_path / "out")
    prompts, tokens = list(frame["prompt_tokens"]), list(frame["tokens"])
    values = np.concatenate(token_values(saved.load("cpu"), prompts, tokens))
    expected = advantage_audit.of_values(read_further(folder, "token"), values, 0.9)
    others = advantage_references.shuffled(read_further(folder, "token")[0], values)
    again = advantage_audit.of_values(read_further(folder, "token"), others, 0.9)
    for found, one in zip(shuffled["advantages"], again, strict=True):
        assert found["mse"]["value"] == pytest.approx(one["mse"]["value"], abs=1e-6)
    for found, one in zip(first["advantages"], expected, strict=True):
        assert found["mse"]["value"] == pytest.approx(one["mse"]["value"], abs=1e-6)
    rows = critics_table.write_critics_table(
        [tmp_path / "out/rows.json"], [folder], tmp_path / "critics.json"
    )
    assert json.loads((tmp_path / "critics.json").read_text()) == rows
    audited = [(row["critic"], row["gamma"]) for row in rows if row["advantages"]]
    named = ["best constant", "position only", "prompt's other responses"]
    named += [f"Monte Carlo, k = {k}" for k in (1, 4)]  # of 8 continuations; 16 cannot be taken
    both = [(name, gamma) for gamma in (0.9, 1.0) for name in named]
    assert audited == [("cold", 0.9), ("cold", 0.9), *both]
    shown = tables.advantages(rows)
    assert len(shown.rows) == 2 * len(audited) and {len(row) for row in shown.rows} == {
        len(shown.head)
    }
    # A truth without audited tokens in the place of one with them; rows of before there were any.
    write(folder, audited=False)
    again = judge.judge_critic(saved, NAME, [folder], "cpu", tmp_path / "out")
    assert again[0]["advantages"] is None and read_further(folder, "token") is None
    del again[0]["advantages"]
    assert tables.advantages(again).rows == []
