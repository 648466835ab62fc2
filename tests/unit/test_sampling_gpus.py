"""How many GPUs probe, evaluation, truth and judging take: as few as hold the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from criticflow.config import Config, Resources, Shape, load_config
from criticflow.errors import UserError
from criticflow.models.saved_critic import laid_over, placed
from criticflow.models.token_values import token_values
from criticflow.planning.study import read_study
from criticflow.runtime.gpus import installed_gpus
from criticflow.training.gpu_footprint import card_gib
from criticflow.training.sampling_gpus import (
    ONE_GPU_MB,
    check_sampling,
    critic_megabytes,
    engine_megabytes,
    gpu_gib,
    sampled_models,
    sampling_gpus,
)
from test_scale_page import SHAPES, STUDY

EXPERIMENTS = sorted((Path(__file__).parents[2] / "config/experiments").glob("*.yaml"))
H100, A100 = 79.6, 39.4


def study(shape: Shape, memory: float | None, dtype: str = "bfloat16", **resources: Any) -> Config:
    base = {"path": "owner/name", "shape": shape.model_dump(), "dtype": dtype}
    used = {"gpu": 8, "gpu_memory_gb": memory} | resources
    return load_config(STUDY | {"models": {"base": base}, "resources": used})


@pytest.mark.parametrize(
    ("model", "memory", "dtype", "gpus"),
    [  # weights of 14, 28, 131 and 263 GiB
        ("7B", H100, "bfloat16", 1),
        ("7B", H100, "float32", 1),
        ("7B", 23.5, "bfloat16", 1),
        ("7B", 23.5, "float32", 2),
        ("70B", H100, "bfloat16", 2),
        ("70B", A100, "bfloat16", 4),
        ("70B", H100, "float32", 4),
        ("70B", 23.5, "bfloat16", 8),
    ],
)
def test_as_few_gpus_as_hold_the_model(model, memory, dtype, gpus):
    config = study(SHAPES[model], memory, dtype)
    assert sampling_gpus(config, "base") == gpus
    check_sampling(config, sampled_models(config))
    weights = {"bfloat16": 2, "float32": 4}[dtype] * SHAPES[model].parameters / gpus / 2**30
    assert weights < gpu_gib(config, "base", SHAPES[model], gpus) < 0.87 * memory
    assert (engine_megabytes(config, "base") > ONE_GPU_MB) == (gpus > 2)
    assert critic_megabytes(config, "base") > gpus * 1024 * weights


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_shipped_experiment_samples_on_one_gpu(file):
    config = read_study([file])
    for model in sampled_models(config):
        assert sampling_gpus(config, model) == 1
        assert engine_megabytes(config, model) == critic_megabytes(config, model) == ONE_GPU_MB


def test_vllm_can_cut_the_model_over_them():
    # 12 heads, two of keys: over 2, 4, 6 or 12 GPUs, of which an MLP of 4 * 2048 allows 2 and 4.
    shape = SHAPES["70B"].model_copy(
        update={"num_heads": 12, "num_kv_heads": 2, "intermediate_size": 4 * 2048}
    )
    weights = 2 * shape.parameters / 2**30
    for wanted, gpus in ((1.1, 2), (2.5, 4), (5.5, 4)):
        config = study(shape, weights / wanted / 0.87)
        assert sampling_gpus(config, "base") == gpus
    with pytest.raises(UserError, match=r"models\.base: .* of each of the 4 GPUs .* smaller model"):
        check_sampling(config, ["base"])


def test_a_model_that_no_node_holds_is_named_before_its_probe():
    config = study(SHAPES["70B"], H100, "float32", gpu=2)
    with pytest.raises(UserError, match=r"131 GiB in float32 of each of the 2 GPUs .*bfloat16"):
        check_sampling(config, ["base"])
    check_sampling(config, [])  # nothing is sampled now
    run = STUDY["runs"]["ppo"] | {"resources": {"gpu": 8}}
    more = config.model_copy(update={"runs": load_config(STUDY | {"runs": {"ppo": run}}).runs})
    assert sampling_gpus(more, "base") == 4  # a run of the model has larger nodes
    check_sampling(more, ["base"])


def test_what_is_not_known_leaves_one_gpu_and_the_cpu_none():
    assert sampling_gpus(load_config(STUDY), "base") == 1  # no shape
    assert sampling_gpus(study(SHAPES["70B"], None, gpu=0), "base") == 0
    if not installed_gpus():
        assert sampling_gpus(study(SHAPES["70B"], None), "base") == 1


def test_gpus_of_this_machine_say_nothing_of_a_ray_elsewhere(monkeypatch):
    monkeypatch.setattr("criticflow.training.gpu_footprint.visible_gpus", lambda: pytest.fail())
    assert card_gib(Resources(gpu=8, ray_address="10.0.0.1:6379")) is None
    assert card_gib(Resources(gpu=8, ray_address="10.0.0.1:6379", gpu_memory_gb=141)) == 141


@pytest.mark.parametrize("family", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize("gpus", [2, 3, 4])
def test_a_critic_over_several_gpus_has_every_layer_whole_and_the_same_values(family, gpus):
    from transformers import AutoModelForTokenClassification

    config = family(
        hidden_size=64, intermediate_size=128, num_hidden_layers=10, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=500, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    critic = AutoModelForTokenClassification.from_config(config)
    where = placed(critic, gpus)
    shares = [0] * gpus
    for name, parameter in critic.named_parameters():
        (gpu,) = [k for part, k in where.items() if f"{name}.".startswith(f"{part}.")]
        shares[gpu] += parameter.numel()
    layer = sum(p.numel() for p in critic.model.layers[0].parameters())
    assert max(shares) < sum(shares) / gpus + layer + critic.model.embed_tokens.weight.numel()
    assert min(shares) > 0 and list(where.values()) == sorted(where.values())
    prompts, responses = [[1, 2, 3], [4, 5]], [[6, 7], [8, 9, 10]]
    before = token_values(critic, prompts, responses)
    # Each part in a place of its own, here all on the CPU: its inputs are brought there by hooks.
    after = token_values(laid_over(critic, ["cpu"] * gpus), prompts, responses)
    assert [value.tolist() for value in after] == [value.tolist() for value in before]
