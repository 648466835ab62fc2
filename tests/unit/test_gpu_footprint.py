"""The expected memory of trainings on GPUs: beside figures computed by hand, and its growth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from criticflow.config import Config, Model, Run, Shape
from criticflow.config.resources import OwnResources
from criticflow.errors import UserError
from criticflow.models.shape import directory_shape, known_shape, read_shape
from criticflow.planning.study import read_study
from criticflow.runtime.gpus import installed_gpus
from criticflow.training import gpu_footprint as gf
from criticflow.training.footprint import GIB, total
from criticflow.training.gpu_table import gpu_tables

CONFIG = Path(__file__).parents[2] / "config"
FILES = [*(CONFIG / "experiments").glob("*.yaml"), *(CONFIG / "studies").glob("*qwen*.yaml")]
H100 = 79.6
TO_GB = GIB / 1e9


def study(name: str, **resources) -> Config:
    config = read_study([CONFIG / "experiments" / f"{name}.yaml"])
    return config.model_copy(update={"resources": config.resources.model_copy(update=resources)})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_study_states_its_models_and_fits_the_gpus_that_it_names(file):
    config = read_study([file])
    assert config.resources.gpu_memory_gb
    for name in config.runs:
        assert gf.expected(config, name, config.resources.gpu_memory_gb) is not None
    gf.check_runs(config, config.runs)


@pytest.mark.parametrize(
    ("name", "run", "gpus", "training", "sampling"),
    [  # GB of an H100, computed independently from verl's and vLLM's code
        ("qwen3-0.6b-gsm8k-ppo", "cold", 4, 28, 48),
        ("qwen3-0.6b-gsm8k-ppo", "cold", 1, 42, 59),
        ("qwen3-1.7b-math-ppo", "cold", 4, 39, 55),
        ("qwen3-1.7b-math-ppo", "cold", 1, 80, 86),
        ("qwen2.5-3b-gsm8k-grpo", "grpo", 8, 32, 49),
        ("qwen2.5-3b-gsm8k-grpo", "grpo", 1, 75, 81),
        ("qwen3-4b-countdown-grpo", "grpo", 8, 31, 50),
        ("qwen3-4b-countdown-grpo", "grpo", 1, 88, 93),
    ],
)
def test_the_peaks_are_those_that_were_computed_by_hand(name, run, gpus, training, sampling):
    found = gf.expected(study(name, gpu=gpus), run, H100)
    assert TO_GB * total(found.training) == pytest.approx(training, rel=0.16)
    assert TO_GB * total(found.rollout) == pytest.approx(sampling, rel=0.03)


@pytest.mark.parametrize("name", ["qwen3-1.7b-math-ppo", "qwen3-4b-countdown-grpo"])
def test_what_does_not_fit_on_one_gpu_is_refused_with_what_helps_most(name):
    config = study(name, gpu=1, gpu_memory_gb=H100)
    with pytest.raises(UserError, match=r"of a GPU with 80 GiB \(.*\): what makes it less"):
        gf.check_runs(config, config.runs)
    gf.check_runs(config, [])  # nothing is trained
    if not installed_gpus():  # nobody knows the card
        gf.check_runs(study(name, gpu=1, gpu_memory_gb=None), config.runs)


def test_a_run_is_judged_by_the_gpus_of_its_own():
    config = study("qwen3-1.7b-math-ppo", gpu=1, gpu_memory_gb=H100)
    with pytest.raises(UserError, match=r"runs\.cold: "):
        gf.check_runs(config, ["cold"])
    own = config.runs["cold"].model_copy(update={"resources": OwnResources(nodes=2, gpu=2)})
    config = config.model_copy(update={"runs": config.runs | {"cold": own}})
    gf.check_runs(config, ["cold"])
    cold, others = (
        gf.asked_megabytes(config, run, config.resources_of(run), otherwise=1)
        for run in ("cold", "warm-frozen")
    )
    assert cold > others
    titles = [str(table.title) for table in gpu_tables(config, H100)]
    assert any("cold, GiB: 2 nodes with 2 GPUs" in title for title in titles)
    assert any("GiB: 1 GPUs" in title for title in titles)


def test_keys_of_verl_that_change_memory_are_not_judged():
    config = study("qwen3-1.7b-math-ppo", gpu=1, gpu_memory_gb=H100)
    offload = {"actor_rollout_ref.actor.fsdp_config.optimizer_offload": True}
    train = config.runs["cold"].train.model_copy(update={"verl": offload})
    run = config.runs["cold"].model_copy(update={"train": train})
    changed = config.model_copy(update={"runs": {"cold": run}})
    gf.check_runs(changed, ["cold"])


def test_a_share_that_leaves_no_cache_is_refused():
    config = study("qwen2.5-3b-gsm8k-grpo", gpu=8, gpu_memory_gb=H100, rollout_memory=0.07)
    with pytest.raises(UserError, match=r"raise resources\.rollout_memory"):
        gf.check_runs(config, ["grpo"])


@pytest.mark.parametrize(
    ("name", "run", "loading"),
    [("qwen2.5-3b-gsm8k-grpo", "grpo", 99), ("qwen3-4b-countdown-grpo", "grpo", 129)],
)
def test_every_rank_loads_a_model_with_tied_embeddings_whole(name, run, loading):
    config = study(name)
    shape = known_shape(config.models[config.runs[run].model])
    parts = {p.name: p.gib for p in gf.host_memory(config.runs[run], config.resources, shape)}
    assert TO_GB * parts["loading a model"] == pytest.approx(loading, rel=0.01)
    untied = shape.model_copy(update={"tied_embeddings": False})
    parts = {p.name: p.gib for p in gf.host_memory(config.runs[run], config.resources, untied)}
    assert TO_GB * parts["loading a model"] == pytest.approx(4e-9 * untied.parameters)
    asked = gf.asked_megabytes(config, run, config.resources, otherwise=1)
    assert asked > 1000 * loading and asked % 1000 == 0


def test_a_frozen_critic_has_no_moments_and_a_constant_none_of_anything():
    config = study("qwen3-0.6b-gsm8k-ppo")
    cold, frozen = (total(gf.expected(config, run, 40).rollout) for run in ("cold", "warm-frozen"))
    shape = known_shape(config.models["qwen3-0.6b"])
    assert cold - frozen == pytest.approx(8 * gf.critic_parameters(shape) / 4 / GIB)
    constant = Run(**{"model": "m", "task": "t", "critic": {"constant": 0, "freeze": True}})
    task = config.tasks["gsm8k"]
    names = {p.name for p in gf.gpu_memory(constant, task, config.resources, shape, 40).training}
    assert "critic's weights" not in names


QWEN3 = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "vocab_size": 5000}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**QWEN3, **HEADS, head_dim=64, tie_word_embeddings=True),
        Qwen3Config(**QWEN3, **HEADS, head_dim=64, tie_word_embeddings=False),
        Qwen2Config(**QWEN3, **HEADS, tie_word_embeddings=True),
    ],
    ids=["tied", "untied", "qwen2"],
)
def test_a_shape_is_read_from_config_json_and_counts_the_parameters(config, tmp_path):
    config.save_pretrained(tmp_path)
    shape = directory_shape(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    exact = sum(parameter.numel() for parameter in model.parameters())
    assert shape.parameters == pytest.approx(exact, rel=2e-3)
    assert (shape.num_layers, shape.num_kv_heads, shape.vocab_size) == (3, 2, 5000)
    assert shape.tied_embeddings is config.tie_word_embeddings
    assert known_shape(Model(path=str(tmp_path))) == shape


def test_a_config_without_the_usual_sizes_has_no_shape(tmp_path):
    assert read_shape({"architectures": ["X"]}) is None
    assert directory_shape(tmp_path) is None
    text = {"text_config": QWEN3 | HEADS, "tie_word_embeddings": False}
    assert read_shape(text).tied_embeddings is False
    assert read_shape({"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 9}).hidden_size == 64


STATED = Shape(
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    vocab_size=100,
    tied_embeddings=True,
)


def test_a_cached_config_wins_over_what_is_stated(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = Model(path="owner/model", shape=STATED)
    assert known_shape(Model(path="owner/model")) is None
    assert known_shape(model) == STATED
    folder = tmp_path / "models--owner--model" / "snapshots" / ("1" * 40)
    folder.mkdir(parents=True)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("1" * 40)
    (folder / "config.json").write_text(json.dumps(QWEN3 | HEADS))
    assert known_shape(model).hidden_size == 256


def test_a_stated_shape_and_the_sites_gpus_decide_nothing_that_is_learned():
    assert "shape" not in Model(path="owner/model", shape=STATED).model_dump()
    config = study("qwen3-0.6b-gsm8k-ppo")
    assert "gpu_memory_gb" not in config.resources.model_dump()
