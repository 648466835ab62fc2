"""docs/scale.md: its table of memory is what the code computes, and its keys of verl compose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from criticflow.config import Shape, load_config
from criticflow.errors import UserError
from criticflow.training.footprint import total
from criticflow.training.gpu_footprint import (
    TENSOR_PARALLEL,
    GpuMemory,
    check_gpu_memory,
    gpu_memory,
)

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
SHAPES = {
    "7B": Shape(
        hidden_size=3584, intermediate_size=18944, num_layers=28, num_heads=28, num_kv_heads=4,
        head_size=128, vocab_size=152064, tied_embeddings=False,
    ),
    "70B": Shape(
        hidden_size=8192, intermediate_size=28672, num_layers=80, num_heads=64, num_kv_heads=8,
        head_size=128, vocab_size=128256, tied_embeddings=False,
    ),
}  # fmt: skip
STUDY = {
    "models": {"base": {"path": "owner/name"}},
    "tasks": {
        "t": {
            "kind": "gsm8k",
            "source": {"hub": "owner/name"},
            "max_prompt_length": 512,
            "max_response_length": 1536,
        }
    },
    "runs": {
        "ppo": {
            "model": "base",
            "task": "t",
            "train": {
                "dtype": "bfloat16",
                "batch_size": 4096,
                "mini_batch_size": 4096,
                "micro_batch_size": 2,
            },
        }
    },
    "resources": {"gpu": 8},
}
COLUMNS = [(model, nodes) for model in SHAPES for nodes in (2, 8, 64)]


def memory(model: str, nodes: int, verl: dict[str, int] | None = None) -> GpuMemory:
    over = {"resources": {"gpu": 8, "nodes": nodes}, "train": {"verl": verl or {}}}
    study = load_config(STUDY | over)
    return gpu_memory(study.runs["ppo"], study.tasks["t"], study.resources, SHAPES[model], 79.6)


def test_70b_is_refused_with_engines_of_one_gpu_and_not_with_engines_of_eight():
    with pytest.raises(UserError, match="give an engine several GPUs"):
        check_gpu_memory("runs.ppo", memory("70B", 8))
    found = memory("70B", 8, {TENSOR_PARALLEL: 8})
    check_gpu_memory("runs.ppo", found)
    # An engine's cache by hand: what eight GPUs give vLLM, less the weights.
    cache = 8 * 0.5 * 79.6 * 2**30 - 2 * SHAPES["70B"].parameters
    assert found.sequences == pytest.approx(cache / (2 * 80 * 8 * 128 * 2 * 2048))


@pytest.mark.parametrize(("column", "case"), enumerate(COLUMNS), ids=map(str, COLUMNS))
def test_the_table_is_what_the_code_computes(column, case):
    parts = {part.name: part.gib for part in memory(*case).training}
    sums = {
        "weights of actor and critic": parts["actor's weights"] + parts["critic's weights"],
        "Adam of both": parts["Adam"],
        "gradients of one": parts["gradients"],
        "activations, logits, gathered layers": (
            parts["activations"] + parts["logits"] + parts["gathered layers"]
        ),
        "contexts of CUDA": parts["CUDA"],
        "**while it trains**": total(memory(*case).training),
    }
    for name, gib in sums.items():
        row = re.search(rf"^\| {re.escape(name)} \|.*$", PAGE, re.MULTILINE)[0]
        told = row.replace("*", "").split("|")[3 + column]
        assert float(told) == pytest.approx(gib, abs=0.051), name


def test_the_shapes_have_as_many_parameters_as_it_says():
    assert [round(shape.parameters / 1e9, 1) for shape in SHAPES.values()] == [7.6, 70.6]


@pytest.mark.parametrize(
    "keys",
    [
        {"actor_rollout_ref.actor.fsdp_config.fsdp_size": 8, "critic.fsdp.fsdp_size": 8},
        {"actor_rollout_ref.rollout.tensor_model_parallel_size": 8},
        {
            f"{engine}.{key}": "true"
            for engine in ("actor_rollout_ref.actor.fsdp_config", "critic.fsdp")
            for key in ("param_offload", "optimizer_offload")
        },
        {
            "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size": 4,
            "critic.fsdp.ulysses_sequence_parallel_size": 4,
        },
    ],
    ids=["HSDP", "tensor parallel rollout", "offload", "Ulysses"],
)
def test_its_keys_of_verl_compose(keys):
    for key in keys:
        assert (
            key in PAGE
            or key.replace("actor_rollout_ref.actor", "..") in PAGE
            or (key.rpartition(".")[2] in PAGE and key.startswith("critic.fsdp"))
        )
    overrides = [f"{key}={value}" for key, value in keys.items()]
    overrides += ["actor_rollout_ref.model.path=base", "trainer.nnodes=8"]
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        compose("criticflow_trainer", overrides)  # without +: the keys are verl's
