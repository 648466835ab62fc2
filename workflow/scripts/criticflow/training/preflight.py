"""Checks whether a training job can run on this machine, before it costs anything."""

from __future__ import annotations

import socket
from pathlib import Path

from pyarrow import parquet

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.files import require_space
from criticflow.models.directory import check_model_directory
from criticflow.runtime import memory

GIB = 2**30

PROCESS_GIB = 0.7
"""Memory of one process that has loaded torch, verl and vLLM, without any weights."""
BASE_PROCESSES = 5
"""Driver, task runner, transfer queue, reward worker and agent loop, besides the ranks."""
BYTES_A_PARAMETER = 16
"""Weights, gradients and Adam's two moments in float32, together over all ranks. Reference policy,
rollout weights and buffers come on top: what passes this check may still run out of memory."""


def check_training(
    resources: Resources,
    model_dir: str,
    critic_dir: str | None,
    checkpoint_dir: Path | None = None,
) -> None:
    """Check models, ports, memory and disk for a training job.

    Args:
        resources: device, ranks, cache.
        model_dir: directory or hub name of actor and reference policy.
        critic_dir: the same for the critic; None: the actor's.
        checkpoint_dir: where checkpoints go; two at a time, the newest and the one before.

    Raises:
        UserError: a directory is no model, no port can be opened, memory or disk is short.
    """
    check_model_directory(model_dir)
    if critic_dir:
        check_model_directory(critic_dir)
    check_port()
    if resources.device == "cpu":
        check_memory(needed_gib(resources, model_dir, critic_dir), resources.ranks)
    if checkpoint_dir:
        require_space(checkpoint_dir, 2 * checkpoint_bytes(model_dir, critic_dir))


def check_batch(train_parquet: Path, batch_size: int) -> None:
    """Raise :class:`UserError` if there are fewer training problems than prompts in a step."""
    problems = parquet.read_metadata(train_parquet).num_rows
    if batch_size > problems:
        raise UserError(
            f"train.batch_size: {batch_size} prompts a step, but {train_parquet} has {problems} "
            "problems: lower it, take more problems, or filter less (probe.filter)"
        )


def needed_gib(resources: Resources, model_dir: str, critic_dir: str | None) -> float:
    """Memory in GiB that a training job on the CPU takes at least, weights as far as known."""
    processes = (BASE_PROCESSES + 2 * resources.ranks) * PROCESS_GIB
    state = parameters(model_dir, critic_dir) * BYTES_A_PARAMETER / GIB
    return processes + resources.ranks * resources.kv_cache_gb + state


def checkpoint_bytes(model_dir: str, critic_dir: str | None) -> int:
    """Size of a checkpoint: the training state, less the gradients; 0 for hub names."""
    return 12 * parameters(model_dir, critic_dir)


def parameters(model_dir: str, critic_dir: str | None) -> int:
    """Parameters of actor and critic together, taking weights as float32; 0 for hub names."""
    folders = [Path(path) for path in (model_dir, critic_dir or model_dir)]
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    return sum(file.stat().st_size for file in files) // 4


def check_memory(needed: float, ranks: int) -> None:
    """Raise :class:`UserError` if less than ``needed`` GiB are available to this process."""
    available = memory.available() / GIB
    if available < needed:
        raise UserError(
            f"training with {ranks} ranks needs about {needed:.1f} GiB of memory, "
            f"{available:.1f} GiB are free: end other programs, or lower resources.cpu_ranks or "
            "resources.kv_cache_gb"
        )


def check_port(host: str = "127.0.0.1") -> None:
    """Ray and torch take free ports; raise :class:`UserError` if there is no free one."""
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise UserError(f"no free port on {host} ({error}): Ray and torch need some") from error
