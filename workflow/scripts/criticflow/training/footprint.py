"""How much memory a training on the CPU takes at its peak, part by part, before it starts.

Parameters are counted from the headers of the models' files, whatever their precision there: verl
trains in float32. The rest follows from the run: the trajectories of a micro-batch, the engines and
their cache, and what the processes of Ray, verl and vLLM take without any model.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from criticflow.config import Resources, Run, Shape, Task
from criticflow.models.weights import Weights
from criticflow.training.overrides import bucket_megabytes

GIB = 2**30

FIXED_GIB = 1.5
"""Memory of driver, task runner, balancer, agent loop, queue and Ray, which share their imports."""
RANK_GIB = 0.6
"""Memory of each rank without weights: training worker 0.25, vLLM's server 0.2 and engine 0.15.
Measured with the default study: 4.7 GiB in all, of them two engines' caches of 1 GiB."""
STATES = 4
"""Numbers that training keeps for a parameter: its weight, its gradient and Adam's two moments."""
BYTES = {"float32": 4, "fp32": 4, "bfloat16": 2, "bf16": 2}
LOGIT_COPIES = 4
"""Arrays as large as a micro-batch's logits: divided by the temperature, their softmax, and the
gradients of both."""
MICRO_BATCHES = "micro-batches"
SAVED_OF_HIDDEN, SAVED_OF_MLP = 14, 5
"""Numbers that the backward pass needs of a token in each layer, in multiples of the layer's width
and of its MLP's."""

ACTOR_DTYPE = "actor_rollout_ref.actor.fsdp_config.model_dtype"
CRITIC_DTYPE = "critic.fsdp.model_dtype"
CHECKPOINTING = "actor_rollout_ref.model.enable_gradient_checkpointing"
"""Settings of verl (``train.verl``) that change how much is kept."""


class Part(NamedTuple):
    """One user of memory, in GiB, and what makes it smaller."""

    name: str
    gib: float
    remedy: str


def footprint(
    run: Run,
    task: Task,
    resources: Resources,
    shape: Shape,
    actor: Weights,
    critic: Weights | None,
) -> list[Part]:
    """The parts of a training's memory on the CPU, at its peak, over all processes of a node.

    Args:
        run, task, resources: what is trained, on what, with what.
        shape, actor: of the actor.
        critic: of the critic; None: there is none.
    """
    ranks, train, nodes = resources.ranks_per_node, run.train, resources.nodes
    number = BYTES[train.verl.get(ACTOR_DTYPE, "float32")]
    parts = [
        Part("processes", FIXED_GIB + ranks * RANK_GIB, "resources.cpu_ranks"),
        Part("actor", STATES * number * actor.parameters / nodes / GIB, "the model's size"),
    ]
    if critic:
        bytes_each = BYTES[train.verl.get(CRITIC_DTYPE, "float32")]
        bytes_each *= 1 if run.critic.freeze else STATES
        parts.append(
            Part("critic", bytes_each * critic.parameters / nodes / GIB, "the critic's size")
        )
    if train.kl_coef > 0 or train.kl_loss_coef > 0:
        parts.append(Part("reference policy", 4 * actor.parameters / nodes / GIB, "train.kl_coef"))
    tokens = train.micro_batch_size * (task.max_prompt_length + task.max_response_length)
    layer = layer_numbers(shape)
    saved = shape.num_layers * layer
    if train.verl.get(CHECKPOINTING):  # keeps each layer's input, computes the rest again
        saved = shape.num_layers * shape.hidden_size + layer
    logits = LOGIT_COPIES * shape.vocab_size
    # A rank also holds the whole embedding and its gradient while it computes.
    computed = BYTES[train.dtype] * tokens * (saved + logits)
    batch = computed + 4 * 2 * actor.largest
    remedy = "train.micro_batch_size, the task's max_prompt_length and max_response_length"
    parts.append(Part(MICRO_BATCHES, ranks * batch / GIB, remedy))
    weights = BYTES[train.dtype] * actor.parameters / GIB
    engines = ranks * (weights + resources.kv_cache_gb)
    parts.append(Part("rollout engines", engines, "resources.kv_cache_gb, resources.cpu_ranks"))
    bucket = ranks * bucket_megabytes(actor.largest) / 1024
    return [*parts, Part("new rollout weights", 2 * bucket, "resources.cpu_ranks")]


def layer_numbers(shape: Shape) -> int:
    """Numbers that the backward pass needs of a token in one layer."""
    return SAVED_OF_HIDDEN * shape.hidden_size + SAVED_OF_MLP * shape.intermediate_size


def total(parts: list[Part]) -> float:
    """GiB of all parts."""
    return math.fsum(part.gib for part in parts)


def least(parts: list[Part]) -> float:
    """GiB that it needs in any case: trajectories may stay at half of their greatest length."""
    return total(parts) - sum(part.gib / 2 for part in parts if part.name == MICRO_BATCHES)


def described(parts: list[Part]) -> str:
    """The parts in one line, the largest first."""
    ordered = sorted(parts, key=lambda part: -part.gib)
    return ", ".join(f"{part.name} {part.gib:.1f}" for part in ordered)


def remedies(parts: list[Part]) -> str:
    """Settings to lower, the one that helps most first."""
    ordered = sorted(parts, key=lambda part: -part.gib)
    keys = [key for part in ordered for key in part.remedy.split(", ")]
    return ", ".join(dict.fromkeys(keys))
