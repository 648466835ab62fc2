"""Two trainings on one machine give their rollout engines new weights at the same time.

    python two_trainings.py [DIRECTORY DIRECTORY]

Each has a sender, verl's adapter in a training worker, and a receiver, verl's extension of vLLM's
worker, each in a process of its own with criticflow's plugin, and is the first job of a Ray of its
own. (Rank 1 of two is shown: rank 0 would also call its server.) The weights are many tensors that
all have one value, 1 in the first training and 2 in the second; a transfer takes some seconds. Each
receiver prints its training's number, and the values that it got.

Without DIRECTORIES, the jobs' own, they use the names that verl has given.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import ray
import torch
import verl  # noqa: F401  (loads the plugin)
import zmq
from verl.workers.config.rollout import CheckpointEngineConfig, RolloutConfig
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from criticflow.verl_plugin.job_directory import JOB
from criticflow.verl_plugin.vllm_cpu import register

TENSORS, SECONDS = 40, 0.05
FIRST_JOB = "01000000"
PATIENCE = 120.0
"""Seconds after which a process that waits for ever is ended."""


def weights(value: float) -> Iterator[tuple[str, torch.Tensor]]:
    for number in range(TENSORS):
        time.sleep(SECONDS)
        yield f"layers.{number}", torch.full((256, 1024), value)  # 1 MB: a bucket each


def send(training: int) -> None:
    os.environ |= {"RANK": "1", "RAY_LOCAL_WORLD_SIZE": "2"}
    ray.get_runtime_context = lambda: SimpleNamespace(get_job_id=lambda: FIRST_JOB)
    settings = RolloutConfig(
        name="vllm",
        tensor_model_parallel_size=2,
        checkpoint_engine=CheckpointEngineConfig(update_weights_bucket_megabytes=1),
    )
    adapter = get_rollout_class("vllm")(settings, {}, None)
    asyncio.run(adapter.update_weights(weights(float(training))))


def receive(training: int) -> None:
    os.environ |= {"VERL_REPLICA_RANK": "0", "VERL_RAY_JOB_ID": FIRST_JOB}
    register()  # as vLLM does
    worker = object.__new__(vLLMColocateWorkerExtension)
    worker.local_rank, worker.model_runner = 1, SimpleNamespace()
    receiver = BucketedWeightReceiver(worker._get_zmq_handle(), torch.device("cpu"), use_shm=True)
    values: list[float] = []

    def take(bucket: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
        values.extend(tensor.unique().item() for _, tensor in bucket)

    receiver.receive_weights(take)
    zmq.Context.instance().term()  # its last answer leaves from a thread, which no exit waits for
    print("training", training, "received", len(values), "of", *sorted(set(values)), flush=True)


def start(work: Callable[[int], None], training: int) -> int:
    """A process for it; its number."""
    if pid := os.fork():
        return pid
    if directories := sys.argv[1:]:
        os.environ[JOB] = directories[training - 1]
    work(training)
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    roles = [(work, training) for work in (receive, send) for training in (1, 2)]
    waiting = {start(*role): role for role in roles}
    deadline = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        for pid in list(waiting):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del waiting[pid]
        time.sleep(0.05)
    for pid, (work, training) in waiting.items():
        print("training", training, "waits for ever:", work.__name__)
        os.kill(pid, 9)
