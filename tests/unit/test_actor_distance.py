"""How far an actor is from the one a critic learned with, and the curve over it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from checkpoint_writers import tiny_actor
from criticflow import config
from criticflow.models.saved_critic import SavedCritic
from criticflow.models.token_kl import token_kl
from criticflow.report.figures import critics
from criticflow.report.palette import Style
from criticflow.stages import judge
from criticflow.stages.truth_files import read_responses, read_truth, write_truth
from criticflow.stats import staleness
from test_audited_tokens import NAME, write

BOUNDS = ("value", "low", "high")
PROMPTS, RESPONSES = [[5, 6], [7, 8, 9]], [[10, 11, 12], [13, 2]]


def test_kl_is_that_of_the_next_token_and_has_a_direction():
    old, new = tiny_actor(seed=1), tiny_actor(seed=2)
    found = token_kl(new, old, PROMPTS, RESPONSES, 0.7)
    assert [len(row) for row in found] == [3, 2]
    ids = torch.tensor([[*PROMPTS[0], *RESPONSES[0][:1]]])
    ours, theirs = (
        (one(input_ids=ids).logits[0, -1].double() / 0.7).softmax(-1) for one in (new, old)
    )
    expected = (ours * (ours / theirs).log()).sum().item()
    assert found[0][1] == pytest.approx(expected, rel=1e-5)
    other = token_kl(old, new, PROMPTS, RESPONSES, 0.7)
    assert abs(other[0][1] - found[0][1]) > 1e-6
    same = np.concatenate(token_kl(new, new, PROMPTS, RESPONSES))
    assert same == pytest.approx(0, abs=1e-12)


def test_tokens_count_alike():
    found = staleness.mean_of_tokens(np.array([4, 4, 9]), [np.ones(3), np.ones(1), np.zeros(4)])
    assert found["value"] == pytest.approx(0.5) and found["low"] < 0.5 < found["high"]


def test_rows_on_later_actors_say_what_is_drift_and_what_is_shift(tmp_path, critic):
    saved = SavedCritic(critic, config.Model(path="x"))
    folders = [tmp_path / name for name in ("truth20", "truth40", "truth40/on_step20", "truth60")]
    actors = {}
    # The old actor gets from each state what the critic says, the new one more: by 0.3 from the
    # old states, by 0.5 from its own.
    for folder, more in zip(folders, (0.0, 0.3 + 0.2, 0.3, 0.0), strict=True):
        write(folder, audited=False)
        states, scores, summary = read_truth(folder)
        values = judge.state_values(saved.load("cpu"), states)
        scores["score"] = values[scores["state"].map(list(states["state"]).index)] + more
        write_truth(folder, states, scores, summary, read_responses(folder))
        actors[folder] = tmp_path / f"actor{folder.name}"
        tiny_actor(seed=len(actors)).save_pretrained(actors[folder])
    old, new, on_old, alone = folders
    del actors[on_old]
    moved = judge.Moved(actors[old], actors, {new: on_old})
    rows = judge.judge_critic(saved, NAME, [new, old, alone], "cpu", tmp_path / "out", moved=moved)
    rows = [row for row in rows if row["kind"] == "run"]
    assert [row["staleness"] is None for row in rows] == [False, True, True]
    for part, value in (("drift", 0.09), ("shift", 0.25 - 0.09)):
        assert rows[0]["staleness"][part] == pytest.approx(dict.fromkeys(BOUNDS, value), abs=1e-6)
    errors = [row["mse"]["value"] for row in rows]
    assert errors[0] - errors[1] == pytest.approx(0.09 + 0.16, abs=1e-6)
    (figure,) = critics.stale(rows, {})
    assert figure.data["drift"].iloc[0] == pytest.approx(0.09, abs=1e-6)
    assert figure.data["shift_high"].isna().tolist() == [False, True, True]


def test_rows_on_actors_of_other_steps_say_how_far_they_are(tmp_path, critic):
    folders = {}
    for step in (20, 40):
        folder = tmp_path / f"truth{step}"
        write(folder, audited=False)
        tiny_actor(seed=step).save_pretrained(tmp_path / f"actor{step}")
        folders[folder] = tmp_path / f"actor{step}"
    moved = judge.Moved(tmp_path / "actor20", folders)
    saved = SavedCritic(critic, config.Model(path="x"))
    out = tmp_path / "out"
    rows = judge.judge_critic(saved, NAME, list(folders), "cpu", out, moved=moved)
    own, later = (row for row in rows if row["kind"] == "run")
    assert own["kl_from_learned"]["value"] == pytest.approx(0, abs=1e-9)
    assert later["kl_from_learned"]["value"] > 1e-4
    (figure,) = critics.stale(rows, {"cold": Style("#000000", (1, 0), "circle")})
    assert list(figure.data["kl"]) == [row["kl_from_learned"]["value"] for row in (own, later)]
    assert "nats a token" in str(figure.spec())
    assert not {"drift", "shift"} & set(figure.data)  # of no later actor was it measured
    alone = judge.judge_critic(saved, NAME, list(folders), "cpu", out)
    assert not any({"kl_from_learned", "staleness"} & set(row) for row in alone)
    assert critics.stale(alone, {}) == []
