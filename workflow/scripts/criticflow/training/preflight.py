"""Checks whether a training job can run on this machine, before it costs anything."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pyarrow import parquet

from criticflow.config import Model, Resources, Run, Task
from criticflow.errors import UserError
from criticflow.files import free_space, require_space
from criticflow.logs import progress
from criticflow.models.directory import check_model_directory
from criticflow.models.shape import directory_shape
from criticflow.models.weights import model_weights
from criticflow.runtime import memory
from criticflow.training.footprint import (
    Part,
    described,
    footprint,
    least,
    remedies,
    total,
)
from criticflow.training.gpu_preflight import check_gpus
from criticflow.training.overrides import OBJECT_STORE, bucket_megabytes

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")


def check_training(
    run: Run,
    task: Task,
    model: Model,
    resources: Resources,
    model_dir: str,
    critic_dir: str | None,
    checkpoint_dir: Path | None = None,
) -> list[Part]:
    """Check models, ports, memory and disk for a training job.

    Args:
        run, task, model, resources: what is trained, on what, with what.
        model_dir: directory of actor and reference policy.
        critic_dir: the same for the critic; None: the actor's.
        checkpoint_dir: where checkpoints go; two at a time, the newest and the one before.

    Returns:
        Its memory on the CPU by part, as expected; empty on GPUs, and on another's Ray cluster.

    Raises:
        UserError: a directory is no model, no port can be opened, a tracker is not installed,
            memory, shared memory or disk is short, or something that GPUs need is not here.
    """
    check_model_directory(model_dir)
    if critic_dir:
        check_model_directory(critic_dir)
    check_port()
    check_trackers(run.train.logger)
    # Of the nodes of somebody else's Ray cluster this machine says nothing.
    elsewhere = resources.ray_address is not None
    parts = [] if elsewhere else _check_machine(run, task, model, resources, model_dir, critic_dir)
    if checkpoint_dir:
        require_space(checkpoint_dir, 2 * checkpoint_bytes(model_dir, critic_dir))
    return parts


def _check_machine(
    run: Run,
    task: Task,
    model: Model,
    resources: Resources,
    model_dir: str,
    critic_dir: str | None,
) -> list[Part]:
    """The part of :func:`check_training` that is about memory and GPUs of this machine."""
    if resources.device != "cpu":
        check_gpus(run, task, model, resources, model_dir)
        return []
    parts: list[Part] = []
    actor = model_weights(model_dir)
    critic = model_weights(critic_dir or model_dir) if run.algorithm == "ppo" else None
    if shape := directory_shape(model_dir):
        parts = footprint(run, task, resources, shape, actor, critic)
        check_memory(parts)
    else:
        progress(f"{model_dir}/config.json lacks the usual sizes: memory is not estimated")
    buckets = resources.ranks_per_node * bucket_megabytes(actor.largest) * 2**20
    check_shared_memory(buckets, OBJECT_STORE)
    return parts


def check_trackers(names: Sequence[str]) -> None:
    """Raise :class:`UserError` if a tracker's library is not installed."""
    if missing := [name for name in names if find_spec(name) is None]:
        raise UserError(
            f"train.logger: {', '.join(missing)} is not installed: "
            f".venv/bin/pip install {' '.join(missing)}, or leave it out"
        )


def check_batch(train_parquet: Path, batch_size: int) -> None:
    """Raise :class:`UserError` if there are fewer training problems than prompts in a step."""
    problems = parquet.read_metadata(train_parquet).num_rows
    if batch_size > problems:
        raise UserError(
            f"train.batch_size: {batch_size} prompts a step, but {train_parquet} has {problems} "
            "problems: lower it, take more problems, or filter less (probe.filter)"
        )


def checkpoint_bytes(model_dir: str, critic_dir: str | None) -> int:
    """Size of a checkpoint of actor and critic: the training state, less the gradients."""
    models = (model_dir, critic_dir or model_dir)
    return 12 * sum(model_weights(model).parameters for model in models)


def check_memory(parts: list[Part]) -> None:
    """Report how much memory a training takes at most; raise :class:`UserError` where it cannot fit
    into what is available to this process."""
    peak, available = total(parts), memory.available() / GIB
    needed = f"{peak:.1f} GiB of memory at most ({described(parts)}), {available:.1f} are free"
    if available < least(parts):
        raise UserError(f"training takes {needed}: end other programs, or lower {remedies(parts)}")
    progress(f"training takes about {needed}")
    if available < peak:
        progress(f"warning: it may run out of memory: lower {remedies(parts)}")


def check_shared_memory(buckets: int, store: int, folder: Path = SHARED_MEMORY) -> None:
    """Raise :class:`UserError` if new rollout weights do not fit into shared memory.

    Args:
        buckets: bytes for the weights, all ranks together.
        store: bytes of Ray's object store, which goes to the disk where there is less than that.
        folder: the file system of shared memory.
    """
    if not folder.is_dir():
        return  # not Linux
    free = free_space(folder)
    needed = buckets + (store if free >= store else 0)
    if free < needed:
        raise UserError(
            f"{folder} has {free / 2**20:.0f} MiB free, training needs {needed / 2**20:.0f} MiB "
            "there for new rollout weights and Ray's objects: start the container with more "
            f"(docker run --shm-size={-(-(buckets + store) // GIB)}g), or empty it"
        )


def check_port(host: str = "127.0.0.1") -> None:
    """Raise :class:`UserError` if there is no free port, as Ray and torch need some."""
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise UserError(f"no free port on {host} ({error}): Ray and torch need some") from error
