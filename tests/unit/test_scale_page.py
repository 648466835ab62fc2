"""docs/scale.md: its table of memory is what the code computes, and its keys of verl compose."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from criticflow.config import Shape, load_config
from criticflow.errors import UserError
from criticflow.training.footprint import total
from criticflow.training.gpu_footprint import (
    TENSOR_PARALLEL,
    USABLE,
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


def memory(
    model: str,
    nodes: int,
    verl: dict[str, int] | None = None,
    task: dict[str, Any] | None = None,
    **train: int,
) -> GpuMemory:
    train = STUDY["runs"]["ppo"]["train"] | {"verl": verl or {}} | train
    run = STUDY["runs"]["ppo"] | {"train": train}
    over = {"resources": {"gpu": 8, "nodes": nodes}, "runs": {"ppo": run}}
    study = load_config(STUDY | over | {"tasks": {"t": task or STUDY["tasks"]["t"]}})
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
    sums["**while it samples**, vLLM with half"] = total(memory(*case).rollout)
    for name, gib in sums.items():
        assert cell(name, 2 + column) == pytest.approx(gib, abs=0.051), name
    told = 1000 * cell("thousands of tokens of one sequence that still fit", 2 + column)
    assert fits(*case, int(told)) and not fits(*case, int(told) + 1000)


def cell(row: str, column: int) -> float:
    """A number of one of the page's tables; the first column is 0."""
    found = re.search(rf"^\| {re.escape(row)} \|.*$", PAGE, re.MULTILINE)
    cells = found[0].strip("| ").split(" |")
    return float(re.search(r"[\d.]+", cells[column])[0])


def fits(model: str, nodes: int, tokens: int) -> bool:
    """Whether training holds one sequence of so many tokens at a time; none always fits."""
    if not tokens:
        return True
    task = STUDY["tasks"]["t"] | {"max_prompt_length": 1, "max_response_length": tokens - 1}
    found = memory(model, nodes, {}, task=task, micro_batch_size=1)
    return total(found.training) <= USABLE * 79.6


NODE, SLOW, GPU, DISK = 400e9, 25e9, 400e12, 10e9
"""Bytes a second into a node, over one slow link, operations a second, bytes to the disk."""
BETWEEN = 264 * 86400 / 64
"""Seconds between the failures of 64 nodes."""


@pytest.mark.parametrize(("column", "model"), [(2, "7B"), (3, "70B")])
def test_times_are_what_their_formulas_say(column, model):
    size = SHAPES[model].parameters
    step, save = 32 * 20 * size, 24 * size / DISK
    rows = {
        "new rollout weights, gathered in float32": 4e-9 * size,
        "an update with one micro-batch: weights gathered twice, gradients reduced in float32": (
            8e-9 * size
        ),
        "a step of 32 micro-batches a GPU: both updates, log-probabilities, values": step / NODE,
        "... the same over one link of 200 Gbit/s a node": step / SLOW,
        "... what is computed meanwhile, `T` = 4096 tokens each": step * 4096 / GPU,
        "... at 10 GB/s to the file system, during which nothing else happens": save,
        "on 64 nodes, one failure in 4.1 days: best time between saves": (
            math.sqrt(2 * save * BETWEEN) / 3600
        ),
        "... lost to saves and to work done twice": 100 * math.sqrt(2 * save / BETWEEN),
    }
    for row, expected in rows.items():
        assert cell(row, column) == pytest.approx(expected, rel=0.03), row


def test_the_first_row_of_rollouts_is_what_the_simulation_prints():
    path = Path(__file__).parents[2] / "benchmarks" / "rollout_tail.py"
    spec = importlib.util.spec_from_file_location("rollout_tail", path)
    tail = importlib.util.module_from_spec(spec)
    sys.modules["rollout_tail"] = tail  # its dataclasses look themselves up
    spec.loader.exec_module(tail)
    rng = np.random.default_rng(0)
    median, limit = tail.TASKS[0]
    steps = [
        tail.step(tail.SEVEN, 2, tail.drawn(rng, median, limit, 1024), limit)
        for _ in range(tail.STEPS)
    ]
    seconds, busy = np.mean(steps, axis=0)
    row = re.search(r"^\| 1024 \| 2 \| ([\d.]+) \| ([\d.]+) \| (\d+) %", PAGE, re.MULTILINE)
    assert [float(n) for n in row.groups()] == [
        round(seconds, 1), round(1024 / seconds, 1), round(100 * busy)
    ]  # fmt: skip
    # One response alone: every token reads all weights.
    alone = tail.seconds(tail.SEVEN, np.array([1000]), slots=256)
    assert alone == pytest.approx(1000 * tail.SEVEN.token(1, 0), rel=0.02)


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
        {
            "model_engine": "megatron",
            "actor_rollout_ref.actor.megatron.tensor_model_parallel_size": 8,
        },
    ],
    ids=["HSDP", "tensor parallel rollout", "offload", "Ulysses", "Megatron"],
)
def test_its_keys_of_verl_compose(keys):
    for key in keys:
        offload = key.startswith("critic.fsdp") and key.endswith("_offload")
        assert offload or key in PAGE  # the page says: the same under critic.fsdp
    overrides = [f"{key}={value}" for key, value in keys.items()]
    overrides += ["actor_rollout_ref.model.path=base", "trainer.nnodes=8"]
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        compose("criticflow_trainer", overrides)  # without +: the keys are verl's
