"""How many GPUs a model is sampled and judged on outside of trainings: as few as hold it.

vLLM cuts every layer over the GPUs of an engine (tensor parallelism), a critic is laid over them
layer by layer. Nothing has been measured: sizes follow from the model's shape. What is not known,
the shape or the GPU, leaves one GPU, as does every model that fits on one.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from criticflow.config import Config, Shape
from criticflow.errors import UserError
from criticflow.models.shape import known_shape
from criticflow.training.footprint import BYTES, GIB
from criticflow.training.gpu_footprint import HOST_GIB, HOST_RANK_GIB, card_gib, own_card_gib

VLLM_SHARE = 0.92
"""Of a GPU's memory that vLLM takes where it is told nothing (``gpu_memory_utilization``)."""
ACTIVATIONS = 0.05
"""Of a GPU's memory: what of vLLM's share its activations and graphs take, with some slack."""
ONE_GPU_MB = 32000
"""Main memory of a job with an engine on one GPU, MB."""


def sampling_gpus(config: Config, model: str) -> int:
    """GPUs of a job that samples from a model, or judges a critic of its size; 0: on the CPU.

    The smallest number that holds weights and the keys and values of one sequence, of those that
    vLLM can cut the model over and that a node has; where none holds them, the largest.
    """
    if not config.resources.gpu:
        return 0
    shape, card = known_shape(config.models[model]), engine_card_gib(config)
    if shape is None or card is None:
        return 1
    sizes = [gpus for gpus in range(1, node_gpus(config, model) + 1) if divides(shape, gpus)]
    usable = (VLLM_SHARE - ACTIVATIONS) * card
    fitting = (gpus for gpus in sizes if gpu_gib(config, model, shape, gpus) <= usable)
    return next(fitting, sizes[-1])


def divides(shape: Shape, gpus: int) -> bool:
    """Whether vLLM can cut a model over so many GPUs: each has as many attention heads and columns
    of the MLP, and heads of keys and values are divided among them or whole on several."""
    kv = shape.num_kv_heads
    heads = shape.num_heads % gpus == 0 and (kv % gpus == 0 or gpus % kv == 0)
    return heads and shape.intermediate_size % gpus == 0


def gpu_gib(config: Config, model: str, shape: Shape, gpus: int) -> float:
    """GiB of each GPU that a model's part takes, with keys and values of its longest sequence."""
    bytes_each = BYTES[config.models[model].dtype]
    users = [*config.runs.values(), *config.critics.values()]
    tasks = {user.task for user in users if user.model == model}
    longest = max((_positions(config, task) for task in tasks), default=0)
    kv_heads = math.ceil(shape.num_kv_heads / gpus)
    cache = 2 * shape.num_layers * kv_heads * shape.head_size * longest
    return bytes_each * (shape.parameters / gpus + cache) / GIB


def _positions(config: Config, task: str) -> int:
    return config.tasks[task].max_prompt_length + config.tasks[task].max_response_length


def node_gpus(config: Config, model: str) -> int:
    """GPUs of a node, as far as is known: those of a training, also of a run of this model."""
    runs = [name for name, run in config.runs.items() if run.model == model]
    return max([config.resources.gpu, *(config.resources_of(name).gpu for name in runs)])


def sampled_models(config: Config) -> list[str]:
    """Models that a study samples from."""
    return sorted({user.model for user in [*config.runs.values(), *config.critics.values()]})


def engine_card_gib(config: Config) -> float | None:
    """GiB of a GPU where engines run: of this machine's where trainings alone run elsewhere."""
    resources = config.resources
    return (own_card_gib() if resources.ray_address else None) or card_gib(resources)


def engine_megabytes(config: Config, model: str) -> int:
    """Main memory of a job that samples from a model, MB: each GPU has a process of its own."""
    gpus = sampling_gpus(config, model)
    return max(ONE_GPU_MB, _megabytes(HOST_GIB + gpus * HOST_RANK_GIB)) if gpus > 1 else ONE_GPU_MB


def critic_megabytes(config: Config, model: str) -> int:
    """The same for one that judges a critic, which is whole in main memory before it is moved."""
    shape = known_shape(config.models[model]) if config.resources.gpu else None
    if shape is None:
        return ONE_GPU_MB
    weights = BYTES[config.models[model].dtype] * shape.parameters / GIB
    return max(ONE_GPU_MB, _megabytes(HOST_RANK_GIB + weights))


def _megabytes(gib: float) -> int:
    return 1000 * math.ceil(gib * 1024 / 1000)


def check_sampling(config: Config, models: Collection[str]) -> None:
    """Raise :class:`UserError` if the weights of one of these models alone are more than all GPUs
    of a job with an engine have."""
    card = engine_card_gib(config) if config.resources.gpu and models else None
    for model in models if card else ():
        if (shape := known_shape(config.models[model])) is None:
            continue
        gpus, dtype = sampling_gpus(config, model), config.models[model].dtype
        each = BYTES[dtype] * shape.parameters / gpus / GIB
        if each > VLLM_SHARE * card:
            raise UserError(
                f"models.{model}: its weights take {each:.0f} GiB in {dtype} of each of the {gpus} "
                f"GPUs with {card:.0f} GiB that probe and evaluation have at most: give nodes more "
                "GPUs (resources.gpu), "
                + ("or take a smaller model" if dtype == "bfloat16" else "or write dtype: bfloat16")
            )
