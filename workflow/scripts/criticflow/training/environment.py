"""Environment variables of the processes of a training."""

from __future__ import annotations

import os
from pathlib import Path

from criticflow.config import Resources
from criticflow.runtime.slurm import end_time
from criticflow.verl_plugin import FORK
from criticflow.verl_plugin.heartbeat import DIRECTORY as HEARTBEATS

TRACKERS = "trackers"
"""Folder beside the checkpoints in which verl's trackers write."""


def environment(resources: Resources, metrics: Path) -> dict[str, str]:
    """All environment variables of a training's processes.

    Args:
        resources: which device.
        metrics: where verl's file logger writes.
    """
    env = os.environ | _EVERYWHERE
    env |= {
        _METRICS: str(metrics.resolve()),
        HEARTBEATS: str(heartbeat_directory(metrics)),
    }
    env = _trackers(metrics.resolve().parent.with_name(TRACKERS)) | env  # a person's setting wins
    env.pop("RAY_ADDRESS", None)  # a job has a Ray of its own
    env.pop("VLLM_CPU_KVCACHE_SPACE", None)  # wins over resources.kv_cache_gb
    if (end := end_time()) is not None:
        env[_END_TIME] = str(end)  # for the trainer (``verl_plugin.stopping``)
    if resources.device == "cpu":
        env |= _CPU
    if resources.own_node:
        return env | _ONE_NODE
    if resources.ray_address:
        env.pop(FORK, None)  # another's daemons start the processes
    return env


def heartbeat_directory(metrics: Path) -> Path:
    """Where the rollout engines of an attempt show that they generate tokens.

    Args:
        metrics: the attempt's metrics.
    """
    return metrics.resolve().with_suffix(".rollouts")


def _trackers(folder: Path) -> dict[str, str]:
    """Where verl's trackers write unless somebody has said otherwise: beside the checkpoints."""
    return {
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
        "SWANLAB_LOG_DIR": str(folder / "swanlab"),
    }


_METRICS = "VERL_FILE_LOGGER_PATH"
_END_TIME = "SLURM_JOB_END_TIME"
_EVERYWHERE = {
    "PYTHONWARNINGS": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    # Ray would give its workers, which do all the work, a priority far below everything else.
    "RAY_worker_niceness": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HYDRA_FULL_ERROR": "1",
}
_ONE_NODE = {
    # No cluster beyond this machine: Ray, and with it verl and vLLM, talks and listens on
    # loopback alone. (It does so by itself on the systems that the variable is named after.)
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
_CPU = {
    "VERL_PLATFORM": "cpu",
    # vLLM's engine computes in its own process, where it would start a worker for each rank.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    FORK: "1",
    # A process with one thread can be forked (``runtime.fork_server``).
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    # Where a library asks for more threads all the same, they would wait for their turn
    # in a loop while the other ranks want the core.
    "OMP_THREAD_LIMIT": "1",
    # vLLM's attention divides the keys of a long sequence among the threads that it has been
    # promised, and waits for ever for those that the limit withholds.
    "VLLM_CPU_ATTN_SPLIT_KV": "0",
    # Tensors are allocated and freed by several threads. By default GNU's allocator keeps the
    # freed ones in a heap for each thread, up to twice what is in use.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    # The queue between verl's processes asks for eight threads each.
    "TQ_NUM_THREADS": "1",
    "TQ_CLIENT_ZMQ_IO_THREADS": "1",
    # vLLM compiles one small function, which costs the first batch more than it saves.
    "TORCHDYNAMO_DISABLE": "1",
}
"""What is different where there is no accelerator."""
OWN = {_METRICS, HEARTBEATS, _END_TIME, *_EVERYWHERE, *_CPU, *_trackers(Path())}
"""Variables that decide how a training's processes work, wherever they have been set."""
