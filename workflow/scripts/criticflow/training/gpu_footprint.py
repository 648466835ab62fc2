"""How much memory a training on GPUs takes, before it starts: of each GPU, and of the machine.

Computed from shapes and from what verl's FSDP engine and vLLM do; no GPU has been measured. On a
GPU the two peaks of a step come one after the other. While it trains, vLLM sleeps and has given its
memory back. While it samples, vLLM holds its share, and of training there are the weights and
Adam's moments; gradients go when an update ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from criticflow.config import Config, Resources, Run, Shape, Task
from criticflow.errors import UserError
from criticflow.models.shape import known_shape
from criticflow.models.weights import Weights
from criticflow.runtime.gpus import visible_gpus
from criticflow.training.deciding import EXECUTION_VERL
from criticflow.training.footprint import (
    ACTOR_DTYPE,
    BYTES,
    CRITIC_DTYPE,
    GIB,
    Part,
    described,
    footprint,
    layer_numbers,
    remedies,
    total,
)

MOMENTS = 2
"""Adam's, for a parameter that learns."""
LOGIT_COPIES = 6
"""Of a micro-batch's logits in the actor's update, without flash-attn: the logits, the same without
padding, their log-softmax, and the gradients of the three."""
CONTEXTS_GIB = 2.0
"""What CUDA, NCCL and the graphs of a sleeping vLLM keep of each GPU, with some slack."""
USABLE = 0.97
"""Share of a GPU's memory that can be used before fragments make it run out."""

HOST_GIB = 12.0
"""Main memory of driver, task runner, agent loops, queue and Ray with its objects."""
HOST_RANK_GIB = 7.0
"""Main memory of a rank: training worker, vLLM's server and engine, each with CUDA's libraries."""
REMEDY = "train.micro_batch_size, the task's max_prompt_length and max_response_length"
MORE_GPUS = "more GPUs (resources.gpu)"
TENSOR_PARALLEL = "actor_rollout_ref.rollout.tensor_model_parallel_size"
"""GPUs of a rollout engine, which share its weights: 1, unless ``train.verl`` says otherwise."""
_LAYOUT = {"use_fused_kernels", "fsdp_size", "ulysses_sequence_parallel_size"}
"""Last parts of keys of verl that change what a GPU holds, beside those of
:mod:`criticflow.training.deciding`."""


class GpuMemory(NamedTuple):
    """What one GPU of a training job holds, in GiB, at the peaks of training and of sampling."""

    training: list[Part]
    rollout: list[Part]
    """The last is vLLM's share."""
    sequences: float
    """Responses of full length that fit at a time into what an engine of vLLM keeps for keys and
    values."""
    card: float
    """What the GPU has."""


def gpu_memory(run: Run, task: Task, resources: Resources, shape: Shape, card: float) -> GpuMemory:
    """Memory of one GPU by part.

    Args:
        run, task, resources: what is trained, on what, with what.
        shape: of the base model; the critic is as large, with a head of one output.
        card: GiB of one GPU.
    """
    train, ranks = run.train, resources.ranks
    compute = BYTES[train.dtype]
    actor = BYTES[train.verl.get(ACTOR_DTYPE, "float32")] * shape.parameters / ranks / GIB
    has_critic = run.algorithm == "ppo" and run.critic.is_model
    learns = has_critic and not run.critic.freeze
    critic = BYTES[train.verl.get(CRITIC_DTYPE, "float32")] * critic_parameters(shape) / ranks / GIB
    weights = [Part("actor's weights", actor, MORE_GPUS)]
    adam = MOMENTS * actor
    if has_critic:
        weights.append(Part("critic's weights", critic, MORE_GPUS))
        adam += MOMENTS * critic if learns else 0
    resident = [
        *weights,
        Part("Adam", adam, MORE_GPUS),
        Part("CUDA", CONTEXTS_GIB, MORE_GPUS),
    ]
    sequence = task.max_prompt_length + task.max_response_length
    tokens = train.micro_batch_size * sequence
    # Gradient checkpointing, verl's default: each layer's input, and one layer computed again.
    saved = shape.num_layers * shape.hidden_size + layer_numbers(shape)
    # What FSDP gathers: the embedding with its gradient, summed in float32, and two layers.
    layer = (shape.parameters - shape.embedding) / shape.num_layers
    gathered = (compute + 4) * shape.embedding + 2 * compute * layer
    training = [
        *resident,
        Part("gradients", actor, MORE_GPUS),
        Part("activations", compute * tokens * saved / GIB, REMEDY),
        Part("logits", LOGIT_COPIES * compute * tokens * shape.vocab_size / GIB, REMEDY),
        Part("gathered layers", gathered / GIB, REMEDY),
    ]
    share = resources.rollout_memory * card
    rollout = [*resident, Part("vLLM", share, "resources.rollout_memory")]
    cache = share * train.verl.get(TENSOR_PARALLEL, 1) - compute * shape.parameters / GIB
    token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_size * compute
    return GpuMemory(training, rollout, cache * GIB / (token * sequence), card)


def critic_parameters(shape: Shape) -> int:
    """Parameters of a value model on the same layers: no output layer, a head of one value."""
    untied = 0 if shape.tied_embeddings else shape.embedding
    return shape.parameters - untied + shape.hidden_size


def host_memory(run: Run, resources: Resources, shape: Shape) -> list[Part]:
    """Main memory of a training job on GPUs of one machine, in GiB.

    A model is loaded in float32 before it is cut: by every rank where input and output embeddings
    are tied (verl cannot fill such a model later), else by the first rank alone. Actor and critic
    are loaded one after the other. A reference policy stays in main memory.
    """
    model = 4 * shape.parameters / GIB
    loading = model * (resources.ranks_per_node if shape.tied_embeddings else 1)
    parts = [
        Part("processes", HOST_GIB + resources.ranks_per_node * HOST_RANK_GIB, "resources.gpu"),
        Part("loading a model", loading, "resources.gpu"),
    ]
    if run.train.kl_coef > 0 or run.train.kl_loss_coef > 0:
        parts.append(Part("reference policy", model, "train.kl_coef"))
    return parts


def check_gpu_memory(name: str, found: GpuMemory) -> None:
    """Raise :class:`UserError` if a training cannot fit.

    Args:
        name: where it stands in the configuration.
        found: its memory, as expected.
    """
    for when, parts in (("training", found.training), ("sampling", found.rollout)):
        needed = total(parts)
        if needed > USABLE * found.card:
            raise UserError(
                f"{name}: {when} would take {needed:.0f} GiB of a GPU with "
                f"{found.card:.0f} GiB ({described(parts)}): what makes it less, the most first: "
                f"{remedies(parts)}"
            )
    if found.sequences < 1:
        raise UserError(
            f"{name}: vLLM gets {found.rollout[-1].gib:.0f} of a GPU's {found.card:.0f} GiB, "
            "and the model leaves less of it than the keys and values of one response of full "
            "length take: raise resources.rollout_memory, or give an engine several GPUs "
            f"(train.verl: {{{TENSOR_PARALLEL}: 8}})"
        )


def changes_memory(run: Run) -> bool:
    """Whether the run's own keys of verl change what a GPU holds, which nothing here follows."""
    return any(key.rpartition(".")[2] in EXECUTION_VERL | _LAYOUT for key in run.train.verl)


def check_runs(config: Config, runs: Collection[str]) -> None:
    """Raise :class:`UserError` if one of these runs cannot fit on the GPUs it is for; nothing is
    known of GPUs that neither the configuration nor this machine tells of."""
    card = card_gib(config.resources) if config.resources.gpu and runs else None
    for run in runs if card else ():
        found = expected(config, run, card)
        if found and not changes_memory(config.runs[run]):
            check_gpu_memory(f"runs.{run}", found)


def card_gib(resources: Resources) -> float | None:
    """GiB of one GPU of a training: as configured, or of this machine's smallest where it trains;
    None: neither says."""
    if resources.gpu_memory_gb is not None or resources.ray_address is not None:
        return resources.gpu_memory_gb
    return own_card_gib()


def own_card_gib() -> float | None:
    """GiB of this machine's smallest GPU; None: there is none, or nothing tells."""
    try:
        found = [gpu.total_gib for gpu in visible_gpus()]
    except UserError:  # a driver that does not answer: the doctor, and each job, say so
        return None
    return min((gib for gib in found if not math.isnan(gib)), default=None)


def expected(config: Config, run: str, card: float) -> GpuMemory | None:
    """Memory of one GPU in a run's training; None: the model's shape is not known."""
    settings = config.runs[run]
    shape = known_shape(config.models[settings.model])
    task = config.tasks[settings.task]
    return gpu_memory(settings, task, config.resources_of(run), shape, card) if shape else None


def asked_megabytes(config: Config, run: str, resources: Resources, otherwise: int) -> int:
    """Main memory of a node to ask a cluster for, in MB, rounded up to whole thousands.

    Args:
        run: whose models these are.
        resources: what the job uses.
        otherwise: where the model's shape is not known, and for jobs that take less on the CPU.
    """
    settings = config.runs[run]
    shape = known_shape(config.models[settings.model])
    if shape is None or resources.ray_address is not None:  # a client's models are elsewhere
        return otherwise
    if resources.gpu:
        return _megabytes(host_memory(settings, resources, shape))
    size = Weights(shape.parameters, shape.embedding)
    critic = size if settings.algorithm == "ppo" else None
    task = config.tasks[settings.task]
    return max(otherwise, _megabytes(footprint(settings, task, resources, shape, size, critic)))


def _megabytes(parts: list[Part]) -> int:
    return 1000 * math.ceil(total(parts) * 1024 / 1000)
