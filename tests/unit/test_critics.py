"""A real (tiny) critic from its HuggingFace directory, on responses with known outcomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from checkpoint_writers import tiny_critic, tiny_tokenizer
from criticflow import config
from criticflow.errors import UserError
from criticflow.models.saved_critic import SavedCritic
from criticflow.models.value_head import load_value_model
from criticflow.stages import critics
from criticflow.verl_plugin.constant_critic import make_constant

MODEL = config.Model(path="x")
EVALUATE = config.Evaluate(n=4, resamples=200)
RESOURCES = config.Resources()


def rollouts(prompts=12, n=4) -> pd.DataFrame:
    """Samples as an evaluation writes them: lengths differ, greedy responses come first."""
    draw = np.random.default_rng(0)
    rows = []
    for prompt in range(prompts):
        words = draw.integers(3, 67, draw.integers(2, 9)).tolist()
        for mode, count in (("greedy", 1), ("sampled", n)):
            for sample in range(count):
                right = bool(draw.random() < prompt / prompts)
                rows.append(
                    {
                        "mode": mode,
                        "prompt_index": prompt,
                        "sample_index": sample,
                        "prompt_tokens": words,
                        "tokens": draw.integers(3, 67, draw.integers(1, 20)).tolist(),
                        "score": 1.0 if right else 0.2,
                        "correct": right,
                    }
                )
    return pd.DataFrame(rows)


def save(folder: Path, critic) -> Path:
    critic.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def samples(tmp_path) -> Path:
    rollouts().to_parquet(tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


def run(critic, samples, gamma=1.0):
    out = samples.parent / "out"
    saved = SavedCritic(critic, MODEL, gamma)
    return critics.evaluate_critic(saved, samples, EVALUATE, RESOURCES.device, out, "cold", 0)


@pytest.mark.seconds
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_values_are_those_of_each_sequence_alone(tmp_path, head):
    critic = load_value_model(save(tmp_path / "critic", tiny_critic(head)), dtype=torch.float32)
    frame = rollouts()
    prompts, responses = list(frame["prompt_tokens"]), list(frame["tokens"])
    found = critics.token_values(critic, prompts, responses, tokens_per_batch=60)
    for prompt, response, values in zip(prompts, responses, found, strict=True):
        with torch.no_grad():
            alone = critic(torch.tensor([[*prompt, *response]])).logits[0, :, 0]
        # As verl slices them: the value at a position belongs to the token after it.
        expected = alone[len(prompt) - 1 : -1].numpy()
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_returns_are_monte_carlo_and_discounted():
    frame = rollouts(2, 1)[1::2].reset_index(drop=True).assign(score=[1.0, 0.2])
    lengths = frame["tokens"].map(len)
    values = [np.zeros(length) for length in lengths]
    states = critics.states_of(frame, values, 0.5)
    first = states[states["sample"] == 0]
    assert list(first["return"]) == [0.5 ** (lengths[0] - 1 - t) for t in range(lengths[0])]
    assert states.groupby("sample")["return"].last().tolist() == [1.0, 0.2]
    assert set(critics.states_of(frame, values, 1.0)["return"]) == {1.0, 0.2}


def test_a_critic_is_judged_on_the_sampled_responses(tmp_path, samples):
    found = run(save(tmp_path / "critic", tiny_critic()), samples)
    text = (samples.parent / "out/summary.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == found
    assert (samples.parent / "out/critic.png").read_bytes().startswith(b"\x89PNG")
    sampled = pd.read_parquet(samples).query("mode == 'sampled'")
    assert found["n_prompts"] == 12 and found["n_samples"] == 48
    assert found["tokens"]["states"] == sampled["tokens"].map(len).sum()
    assert [row["position"] for row in found["positions"]] == [step / 10 for step in range(11)]
    for row in found["positions"]:
        assert row["states"] == 48
        assert row["mean_return"] == pytest.approx(sampled["score"].mean())
        assert row["auc"]["low"] <= row["auc"]["value"] <= row["auc"]["high"]


def test_a_critic_that_knows_the_prompts_is_recognised(tmp_path, samples):
    frame = pd.read_parquet(samples).query("mode == 'sampled'").reset_index(drop=True)
    rate = frame.groupby("prompt_index")["correct"].transform("mean")
    values = [
        np.full(len(row), 0.2 + 0.8 * p) for row, p in zip(frame["tokens"], rate, strict=True)
    ]
    found = critics.critic_figures(frame, values, 1.0, EVALUATE)
    assert found["prompt_value"]["correlation"]["value"] == pytest.approx(1.0)
    assert found["positions"][0]["explained_variance"]["value"] > 0.1
    assert found["positions"][0]["auc"] == found["positions"][10]["auc"]
    assert found["outside"] == 0.0


def test_a_constant_critic_explains_nothing(tmp_path, samples):
    critic = tiny_critic()
    make_constant(critic, 0.5)
    found = run(save(tmp_path / "critic", critic), samples)
    assert found["tokens"]["mean_value"] == 0.5
    assert found["tokens"]["explained_variance"]["value"] == pytest.approx(0.0)
    assert found["positions"][0]["auc"]["value"] == 0.5
    assert found["prompt_value"]["correlation"] is None


def test_what_does_not_fit_together_is_named(tmp_path, samples):
    critic = save(tmp_path / "critic", tiny_critic())
    frame = pd.read_parquet(samples)
    frame["tokens"] = [[66, 67]] * len(frame)
    frame.to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"67 tokens in its vocabulary.*uses token 67"):
        run(critic, tmp_path / "other.parquet")
    frame.drop(columns="prompt_tokens").to_parquet(tmp_path / "old.parquet")
    with pytest.raises(UserError, match=r"old\.parquet holds no samples.*evaluate the actor again"):
        run(critic, tmp_path / "old.parquet")
    with pytest.raises(UserError, match="no such model directory"):
        run(tmp_path / "nowhere", samples)


@pytest.mark.seconds
def test_neither_verl_nor_vllm_is_imported():
    code = (
        "import sys, criticflow.stages.critics\n"
        "sys.exit(bool({'verl', 'vllm', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_values_where_the_actor_only_read_do_not_count(tmp_path):
    frame = rollouts()
    draw = np.random.default_rng(1)
    frame["written"] = [[*draw.integers(0, 2, len(row) - 1), 1] for row in frame["tokens"]]
    frame.to_parquet(tmp_path / "samples.parquet")
    critic = save(tmp_path / "critic", tiny_critic())
    run(critic, tmp_path / "samples.parquet")
    shown = pd.read_parquet(tmp_path / "out" / "responses.parquet")
    sampled = frame[frame["mode"] == "sampled"].set_index(["prompt_index", "sample_index"])
    for place, rows in shown.groupby(["prompt_index", "sample_index"]):
        assert len(rows) == sum(sampled.loc[place, "written"])
    values = [np.arange(len(row), dtype=float) for row in frame["tokens"]]
    own, kept = critics.own_tokens(frame, values)
    for row, written, tokens in zip(kept, frame["written"], own["tokens"], strict=True):
        assert row.tolist() == np.flatnonzero(written).tolist() and len(tokens) == len(row)
