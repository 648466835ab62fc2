"""Critics fitted offline, by verl's engines: they learn, resume and convert."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from criticflow import config
from criticflow.checkpoint.convert import convert
from criticflow.models.value_head import load_value_model
from criticflow.stages.critics import token_values
from criticflow.training import pretrain
from criticflow.verl_plugin.critic_fit import HISTORY, Settings, read_state, write_settings

SETTINGS = {
    "device": "cpu",
    "ranks": 2,
    "batch_size": 32,
    "micro_batch_size": 8,
    "passes": 4,
    "checks": 1,
    "patience": 9,
    "learning_rate": 3e-3,
    "warmup": 0.1,
    "weight_decay": 0.01,
    "gamma": 1.0,
    "seed": 0,
    "value_head": "linear",
    "dtype": "float32",
    "strategy": "fsdp2",
    "attn_implementation": "sdpa",
    "trust_remote_code": False,
}


def samples(path: Path, rows: int = 512) -> Path:
    """Responses whose score the first token of the prompt decides."""
    draw = np.random.default_rng(0)
    prompts = [draw.integers(20, 90, 5).tolist() for _ in range(rows)]
    frame = pd.DataFrame(
        {
            "prompt_tokens": prompts,
            "tokens": [draw.integers(20, 90, draw.integers(2, 7)).tolist() for _ in range(rows)],
            "score": [float(prompt[0] >= 55) for prompt in prompts],
            "held_out": np.arange(rows) % 8 == 0,
        }
    )
    frame.to_parquet(path)
    return path


def fit_settings(base_model: Path, directory: Path) -> Settings:
    directory.mkdir(parents=True)
    given = samples(directory / "samples.parquet")
    return Settings(model=str(base_model), samples=str(given), directory=str(directory), **SETTINGS)


def start(settings: Settings) -> subprocess.Popen[str]:
    file = Path(settings.directory, "settings.json")
    write_settings(settings, file)
    return subprocess.Popen(
        [sys.executable, "-m", "criticflow.verl_plugin.critic_fit", str(file)],
        env=os.environ | pretrain.environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output[-6000:]


@pytest.fixture(scope="module")
def pretrained(base_model, tmp_path_factory) -> Path:
    """A whole pretraining, as its stage does it."""
    out = tmp_path_factory.mktemp("pretrained")
    part = {name: SETTINGS[name] for name in ("batch_size", "micro_batch_size", "passes")}
    rates = {name: SETTINGS[name] for name in ("checks", "patience", "learning_rate", "warmup")}
    pretrain.pretrain(
        pretrain.Pretraining(
            config.PretrainedCritic(model="tiny", task="mini", **part, **rates),
            name="pretrained",
            seed=0,
            model=config.Model(path=str(base_model), attn_implementation="sdpa"),
            model_path=str(base_model),
            samples=samples(out / "samples.parquet"),
            resources=config.Resources(),
            directory=out / "checkpoints",
            out=out / "critic",
        )
    )
    return out


def test_a_pretrained_critic_explains_returns_that_it_has_not_seen(pretrained):
    frame = pd.read_parquet(pretrained / "samples.parquet")
    held_out = frame[frame["held_out"]]
    critic = load_value_model(pretrained / "critic", dtype=torch.float32)
    found = token_values(critic, list(held_out["prompt_tokens"]), list(held_out["tokens"]))
    values = np.concatenate(found)
    returns = np.repeat(held_out["score"].to_numpy(), [len(row) for row in found])
    share = 1 - np.var(returns - values) / np.var(returns)
    assert share > 0.15
    # What the fit said of itself is what the converted critic does.
    history = [json.loads(line) for line in (pretrained / "checkpoints" / HISTORY).open()]
    best = read_state(pretrained / "checkpoints").best_step
    row = next(row for row in history if row["step"] == best)
    assert row["held_out_mse"] == pytest.approx(float(np.mean((returns - values) ** 2)), rel=1e-3)
    assert row["held_out_explained_variance"] == pytest.approx(share, abs=1e-3)
    assert row["held_out_mse"] == min(row["held_out_mse"] for row in history)
    card = json.loads((pretrained / "critic/critic_card.json").read_text())
    assert card["critic"] == "pretrained" and card["step"] == best
    assert card["responses"] == best * 32 and card["best"] == row
    assert set(card["base_model"]["sha256"]) == {"model.safetensors"}
    assert not list((pretrained / "checkpoints").glob("global_step_*/critic/optim_*"))


@pytest.mark.slow
def test_a_fit_that_is_killed_ends_with_the_same_weights(base_model, tmp_path):
    whole = fit_settings(base_model, tmp_path / "whole")
    finish(start(whole))
    killed = fit_settings(base_model, tmp_path / "killed")
    process = start(killed)
    while not (tmp_path / "killed" / "state.json").is_file():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    time.sleep(2)  # the ranks end with their parent
    reached = read_state(tmp_path / "killed").step
    assert 0 < reached < read_state(tmp_path / "whole").step
    finish(start(killed))
    assert read_state(tmp_path / "killed") == read_state(tmp_path / "whole")
    step = read_state(tmp_path / "whole").step
    weights = []
    for name in ("whole", "killed"):
        folder = tmp_path / name / f"global_step_{step}" / "critic"
        convert(folder, tmp_path / f"{name}_hf", "critic")
        weights.append(load_file(tmp_path / f"{name}_hf" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
