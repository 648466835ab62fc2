"""Which states a truth is measured at, and what a critic says of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from checkpoint_writers import tiny_tokenizer
from criticflow import config
from criticflow.commands import judge as by_hand
from criticflow.errors import UserError
from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.models.line_ends import line_ends
from criticflow.models.saved_critic import SavedCritic
from criticflow.models.value_head import load_value_model
from criticflow.stages import critics_table, judge
from criticflow.stages.truth_files import ACTOR, read_truth, vocabulary_hash, write_truth
from criticflow.stages.truth_on_states import read_states
from criticflow.stages.value_truth import states_of
from criticflow.stats import truth_table
from criticflow.verl_plugin.constant_critic import make_constant

MODEL = config.Model(path="x")
POSITIONS = [0.0, 0.25, 0.5, 0.75, 1.0]


def responses(*lengths: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt_index": range(len(lengths)),
            "sample_index": 0,
            "prompt_tokens": [[90 + row] * 3 for row in range(len(lengths))],
            "tokens": [list(range(length)) for length in lengths],
        }
    )


def test_states_run_from_the_prompt_to_where_the_last_token_is_chosen():
    states = states_of(responses(9), POSITIONS)
    assert list(states["state"]) == [0, 1, 2, 3, 4]
    assert list(states["position"]) == POSITIONS
    assert list(states["prefix_length"]) == [0, 2, 4, 6, 8]
    assert states["prefix_tokens"][0] == [90, 90, 90]
    assert states["prefix_tokens"][4] == [90, 90, 90, *range(8)]  # the ninth is still to come


@pytest.mark.parametrize(
    ("length", "lengths", "positions"),
    [(1, [0], [0.0]), (2, [0, 1], [0.0, 0.75]), (3, [0, 1, 2], [0.0, 0.5, 0.75])],
)
def test_a_state_of_a_short_response_counts_once(length, lengths, positions):
    states = states_of(responses(length), POSITIONS)
    assert list(states["prefix_length"]) == lengths
    assert list(states["position"]) == positions


def test_long_responses_have_their_states_at_line_ends():
    states = states_of(responses(100, 10), POSITIONS, lines_above=50, ends=[[20, 45, 90], []])
    assert list(states["prefix_length"]) == [0, 20, 45, 90, 99, 0, 2, 4, 7, 9]
    # Without any line end only the prompt and the last state are left.
    assert list(states_of(responses(100), POSITIONS, 50, [[]])["prefix_length"]) == [0, 99]


def test_dialogues_have_their_states_where_turns_begin():
    # Two turns with something read between them, and one after a second reading.
    written = [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1]
    states = states_of(responses(14).assign(written=[written]), POSITIONS)
    assert list(states["prefix_length"]) == [0, 7, 11, 13]
    # The last token of all is still to be chosen, and is a turn of its own here.
    short = states_of(responses(5).assign(written=[[1, 1, 0, 0, 1]]), POSITIONS)
    assert list(short["prefix_length"]) == [0, 4]


def test_line_ends_are_found_in_the_text_of_the_tokens():
    tokenizer = char_tokenizer(64)
    tokens = tokenizer.encode("ab\nc\n", add_special_tokens=False)
    assert line_ends(tokenizer, [tokens, tokens[:2]]) == [[3, 5], []]


def truth(folder, problems=6, seed=0):
    """A truth on disk whose values are known, with a tokenizer of 67 words."""
    draw = np.random.default_rng(seed)
    frame = responses(*draw.integers(5, 9, problems)).assign(
        prompt_tokens=[draw.integers(3, 67, 4).tolist() for _ in range(problems)]
    )
    states = states_of(frame, POSITIONS)
    rows = [
        (state, float(draw.random() < 0.2 + 0.1 * row), True, int(draw.integers(1, 4)))
        for state, row in zip(states["state"], states["prompt_index"], strict=True)
        for _ in range(16)
    ]
    scores = pd.DataFrame(rows, columns=["state", "score", "correct", "length"])
    states = truth_table.with_truth(states, scores)
    summary = {
        "actor": "cold",
        "actor_seed": 0,
        "actor_step": 40,
        "task": "mini",
        "gamma": 1.0,
        "vocabulary": vocabulary_hash(tiny_tokenizer()),
    }
    scored = frame.assign(score=1.0, correct=[row % 2 == 0 for row in range(problems)])
    write_truth(folder, states, scores, summary, scored)
    return folder


NAME = {"critic": "cold", "kind": "run", "critic_seed": 0, "critic_step": 40}


def judged(critic, folder, out, gamma=1.0, **settings):
    saved = SavedCritic(critic, MODEL, gamma)
    return judge.judge_critic(saved, NAME, [folder], "cpu", out, **settings)


def test_values_are_those_at_the_last_token_of_each_state(tmp_path, critic):
    folder = truth(tmp_path / "truth")
    rows = judged(critic, folder, tmp_path / "out")
    values = pd.read_parquet(tmp_path / "out/values.parquet")
    model = load_value_model(critic, dtype=torch.float32).eval()
    states, _, summary = read_truth(folder)
    for state, value in zip(states.itertuples(), values["value"], strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([list(state.prefix_tokens)])).logits[0, -1, 0]
        assert value == pytest.approx(float(expected), abs=1e-5)
    assert list(values["state"]) == list(states["state"])
    assert {key: rows[0][key] for key in ACTOR} == {key: summary[key] for key in ACTOR}
    expected = float(np.mean(values["value"] - states["v_mc"]))
    assert rows[0]["bias"]["value"] == pytest.approx(expected)
    assert json.loads((tmp_path / "out/rows.json").read_text()) == rows


def test_responses_are_shown_with_the_truth_of_their_states(tmp_path, critic):
    folder = truth(tmp_path / "truth")
    judged(critic, folder, tmp_path / "out")
    shown = pd.read_parquet(tmp_path / "out/responses.parquet")
    states, _, _ = read_truth(folder)
    assert set(shown["actor"]) == {"cold"} and shown["case"].nunique() > 1
    assert shown["v_mc"].notna().sum() == len(
        states.merge(shown[["prompt_index", "sample_index"]].drop_duplicates())
    )
    first = shown[shown["token"] == 0].set_index("prompt_index")["v_mc"]
    at_prompt = states[states["position"] == 0].set_index("prompt_index")["v_mc"]
    pd.testing.assert_series_equal(
        first.sort_index(), at_prompt[first.index].sort_index(), check_names=False
    )


def test_the_truth_is_taken_at_the_critics_discount(tmp_path, critic):
    model = load_value_model(critic, dtype=torch.float32)
    make_constant(model, 0.0)
    model.save_pretrained(critic)
    folder = truth(tmp_path / "truth")
    row, *_ = judged(critic, folder, tmp_path / "out", gamma=0.5)
    _, scores, _ = read_truth(folder)
    returns = (scores["score"] * 0.5 ** (scores["length"] - 1)).groupby(scores["state"]).mean()
    assert row["gamma"] == 0.5
    assert row["bias"]["value"] == pytest.approx(-returns.mean())


def test_a_critic_of_masked_rewards_is_compared_with_the_masked_truth_too(tmp_path, critic):
    model = load_value_model(critic, dtype=torch.float32)
    make_constant(model, 0.0)
    model.save_pretrained(critic)
    row, *_ = judged(critic, truth(tmp_path / "truth"), tmp_path / "out", masked=0.75)
    assert row["against_masked"]["factor"] == 0.25
    expected = 0.25 * row["bias"]["value"]
    assert row["against_masked"]["bias"]["value"] == pytest.approx(expected)
    assert "against_masked" not in judged(critic, tmp_path / "truth", tmp_path / "out")[0]


def test_another_tokenizer_is_refused(tmp_path, critic):
    char_tokenizer(64).save_pretrained(critic)
    with pytest.raises(UserError, match="has another tokenizer than the actor"):
        judged(critic, truth(tmp_path / "truth"), tmp_path / "out")


def test_the_table_has_every_critic_and_the_references_of_every_actor(tmp_path, critic):
    folder = truth(tmp_path / "truth")
    judged(critic, folder, tmp_path / "out", gamma=0.9)
    rows = critics_table.write_critics_table(
        [tmp_path / "out/rows.json"], [folder], tmp_path / "critics.json"
    )
    assert json.loads((tmp_path / "critics.json").read_text()) == rows
    kinds = {(row["kind"], row["gamma"]) for row in rows}
    assert {("run", 0.9), ("constant", 0.9), ("constant", 1.0), ("position", 0.9)} <= kinds
    constant = next(row for row in rows if row["kind"] == "constant")
    assert constant["share_explained"]["value"] == pytest.approx(0.0, abs=1e-9)


def test_a_folder_without_truth_is_named(tmp_path, critic):
    with pytest.raises(UserError, match="holds no truth about values"):
        judged(critic, tmp_path, tmp_path / "out")


def test_states_are_read_as_they_were_for_another_actor_to_go_on_from(tmp_path):
    folder = truth(tmp_path / "truth")
    states, responses, _ = read_states(folder)
    known = states_of(responses, POSITIONS)
    pd.testing.assert_frame_equal(states[known.columns], known)
    json.dumps(states["prefix_tokens"][0])  # plain numbers, which seeds are made of
    (folder / "responses.parquet").unlink()
    with pytest.raises(UserError, match=r"no responses.parquet: measure this truth again"):
        read_states(folder)


def test_by_hand_a_critic_is_judged_as_in_the_workflow(tmp_path, critic):
    folder = truth(tmp_path / "truth")
    expected = judged(critic, folder, tmp_path / "out", gamma=0.9)
    arguments = ["--critic", str(critic), "--truth", str(folder), "--out", str(tmp_path / "hand")]
    by_hand.main([*arguments, "--gamma", "0.9", "--name", "cold"])
    rows = json.loads((tmp_path / "hand/rows.json").read_text())
    known = {"critic_seed": 0, "critic_step": 40}  # of the workflow's critic alone
    assert [row | known for row in rows] == expected
