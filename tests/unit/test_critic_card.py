"""What a saved critic's card says."""

from __future__ import annotations

import json

import pandas as pd

from checkpoint_writers import tiny_critic
from criticflow import config
from criticflow.config import load_config
from criticflow.files import sha256
from criticflow.training.critic_card import base_model, pretrained_card, run_card, write_card
from test_config import raw


def study():
    return load_config(raw(seeds=[0, 1]))


METRICS = pd.DataFrame({"step": range(1, 41), "perf/total_num_tokens": 1000})


def test_a_runs_critic_says_what_it_learned_from():
    card = run_card(study().runs["cold"], "cold", 1, 20, "results/models/tiny", METRICS)
    assert (card["critic"], card["seed"], card["step"]) == ("cold", 1, 20)
    assert card["responses"] == 20 * 128 and card["tokens"] == 20_000
    assert card["reward_mask"]["ratio"] == 0.0
    # Written to disk and read again it is the same.
    assert json.loads(json.dumps(card)) == card


def test_a_frozen_critic_has_learned_nothing_in_its_run():
    card = run_card(
        study().runs["warm-frozen-m50"], "warm-frozen-m50", 0, 40, "results/models/tiny", METRICS
    )
    assert card["responses"] == 0 and card["tokens"] == 0
    assert card["started_from"]["from"] == "cold" and card["started_from"]["freeze"] is True


def test_a_pretrained_critic_says_whose_returns_it_learned(tmp_path):
    critic = config.PretrainedCritic(model="tiny", task="mini", actor="cold", batch_size=64)
    samples = pd.DataFrame(
        {"tokens": [[1, 2], [1, 2, 3, 4], [1]], "held_out": [False, False, True]}
    )
    card = pretrained_card(critic, "pre", 0, 10, str(tmp_path), samples)
    assert card["actor"] == "cold/seed0"
    assert card["responses"] == 640 and card["tokens"] == 1920
    write_card(tmp_path, card)
    assert json.loads((tmp_path / "critic_card.json").read_text()) == card


def test_the_base_models_weights_and_licence_are_named(tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    found = base_model("tiny", str(tmp_path))
    assert found["sha256"] == {"model.safetensors": sha256(tmp_path / "model.safetensors")}
    assert found["licence"] == "apache-2.0"
    (tmp_path / "README.md").write_text("# license: none stated\n")
    assert base_model("tiny", str(tmp_path))["licence"] is None
    assert base_model("hub", "owner/name")["sha256"] is None
