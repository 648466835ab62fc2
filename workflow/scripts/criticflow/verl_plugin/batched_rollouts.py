"""Rollouts beside the engines: each has an agent loop for its share of a batch's prompts.

For every trajectory verl's agent loop makes about ten calls to five other processes: which engine,
generate, score, put, and others around these. On a laptop, where a small model answers a whole
batch in a second, these calls take most of a step. Here the agent loop is in the server of an
engine: a batch is one call to each, and they work side by side from the prompts as tokens to the
scores, which are computed in place, and to one write to the queue. The trainer waits for the write
in place of looking into the queue. Prompts, seeds, responses and scores are the same.

A share is written when the slowest of its responses is done, so this is for short responses on one
machine (``training.overrides`` chooses it on the CPU). Elsewhere verl's own agent loop writes the
first responses while the last are still being generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.profiler import simple_timer
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from criticflow.verl_plugin import REWARD, SEARCH_LOOP, patches
from criticflow.verl_plugin.agent_loop import SeededAgentLoop
from criticflow.verl_plugin.call_batching import CallBatcher
from criticflow.verl_plugin.reward import compute_score
from criticflow.verl_plugin.rollout_errors import TellsErrors
from criticflow.verl_plugin.search_loop import SearchAgentLoop

READ_IN_TRAINING = {"uid", "num_turns", "data_source", "reward_model", "extra_fields"}
"""Fields of a trajectory that the trainer reads again, besides its tensors: verl's, and those by
which an oracle scores (``oracle``)."""


class TextClient:
    """What asks for responses, as verl's client does, to text alone."""

    _send: Callable[..., Awaitable[TokenOutput]]
    """Called with prompt token ids, sampling parameters, request id."""

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        **multimodal: Any,
    ) -> TokenOutput:
        if given := [key for key, value in multimodal.items() if key != "priority" and value]:
            raise ValueError(f"batched rollouts are for text alone, not for {', '.join(given)}")
        return await self._send(prompt_ids, sampling_params, request_id)


class BatchedClient(TextClient, LLMServerClient):
    """Sends the requests that come together to the engines in turn, one call to each.

    Args:
        servers: handles of :class:`criticflow.verl_plugin.batched_server.BatchedServer` actors.
    """

    def __init__(self, *args: Any, servers: list[ray.actor.ActorHandle], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.servers = servers
        self._requests = cycle([CallBatcher(one.generate_batch.remote) for one in servers])

    async def _send(self, *request: Any) -> TokenOutput:
        return await next(self._requests)(request)


class OwnEngine(TextClient):
    """The client of an agent loop beside an engine.

    Args:
        generate: of the engine.
    """

    def __init__(self, generate: Callable[..., Awaitable[TokenOutput]]) -> None:
        self._send = generate


class BatchedQueue:
    """The writes of an agent loop to verl's TransferQueue, kept until :meth:`write`.

    verl adds the problem's whole row of the data set to a trajectory, and every worker copies it,
    value by value, at each of its calls. Here the fields that nothing reads again are left out of
    a trajectory to train on.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {}
        self._statuses: dict[tuple[str, str], dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(tq, name)

    async def async_kv_put(self, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        self._statuses[partition_id, key] = tag

    async def async_kv_batch_put(
        self,
        keys: list[str],
        fields: list[dict[str, Any]],
        tags: list[dict[str, Any]],
        partition_id: str,
    ) -> None:
        for key, row, tag in zip(keys, fields, tags, strict=True):
            kept = _to_train_on(row) if partition_id == "train" else row
            self._rows[partition_id, key] = kept, tag

    async def write(self) -> None:
        """Trajectories first: a prompt whose status is final is looked for together with its."""
        rows, statuses = self._rows, self._statuses
        self._rows, self._statuses = {}, {}
        for partition in sorted({partition for partition, _ in rows}):
            found = {key: row for (where, key), row in rows.items() if where == partition}
            fields, tags = zip(*found.values(), strict=True)
            table = list_of_dict_to_tensordict(list(fields))
            await tq.async_kv_batch_put(
                keys=list(found), partition_id=partition, fields=table, tags=list(tags)
            )
        for partition in sorted({partition for partition, _ in statuses}):
            last = {key: tag for (where, key), tag in statuses.items() if where == partition}
            await tq.async_kv_batch_put(
                keys=list(last), partition_id=partition, tags=list(last.values())
            )


def _to_train_on(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, torch.Tensor) or name in READ_IN_TRAINING
    }


class InPlaceReward:
    """A reward worker in this process that is called like the handle of a Ray actor."""

    def __init__(self, config: DictConfig) -> None:
        self.worker = RewardLoopWorker(config)
        self.compute_score = SimpleNamespace(remote=self._score)

    def _score(self, data: Any) -> Awaitable[dict[str, Any]]:
        return self.worker.compute_score(data)


class InPlace:
    """What an agent loop takes for its event loop: short work needs no thread."""

    async def run_in_executor(self, _: Any, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)


class OneAgentLoop(AgentLoopWorkerTQ.__ray_actor_class__):
    """verl's worker, in the process of an engine's server: with a queue and a reward worker that
    save messages, and one agent loop for all trajectories, since that of ``agent_loop`` has no
    state.

    Args:
        config: verl's whole configuration.
        engine: that generates.
    """

    def __init__(self, config: DictConfig, engine: OwnEngine) -> None:
        super().__init__(config, engine, reward_loop_worker_handles=[InPlaceReward(config)])
        self.queue = BatchedQueue()
        patches.write_rollouts_through(self.queue)
        reward = config.reward
        self.scores_alone = (
            reward.custom_reward_function.path == REWARD
            and reward.reward_manager.source == "register"
            and reward.reward_manager.name == "naive"
        )
        name = config.actor_rollout_ref.rollout.agent.default_agent_loop
        loop = SearchAgentLoop if name == SEARCH_LOOP else SeededAgentLoop
        self.agent_loop = loop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            hf_model_type=self.hf_model_type,
        )
        self.agent_loop.loop = InPlace()  # all prompts are there at once, and make one request

    async def generate_sequences(self, batch: TensorDict) -> None:
        """verl's starts the trajectories; here they are written as well when it is done."""
        await super().generate_sequences(batch)
        await asyncio.gather(*self.background_tasks)
        await self.queue.write()

    async def _run_agent_loop(
        self,
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        *,
        agent_name: str,
        trace: bool = True,
        **kwargs: Any,
    ) -> None:
        output = await self.agent_loop.run(sampling_params, **kwargs)
        await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
        """verl's, which makes a table of one row for its reward worker. The workflow's own reward
        needs none."""
        if not self.scores_alone:
            await super()._compute_score(outputs, kwargs)
            return
        last, timing = outputs[-1], {}
        with simple_timer("compute_score", timing):
            text = self.tokenizer.decode(last.response_ids, skip_special_tokens=True)
            truth = kwargs["reward_model"]["ground_truth"]
            found = compute_score(kwargs["data_source"], text, truth)
        last.reward_score = found["score"]
        last.extra_fields["reward_extra_info"] = found
        last.metrics.compute_score = timing["compute_score"]


class BatchedAgentLoop(TellsErrors, OneAgentLoop):
    """With its errors told to the trainer."""


class BatchedAgentLoopManager(AgentLoopManagerTQ):
    """What :data:`criticflow.verl_plugin.BATCHED_ROLLOUTS` names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: list[ray.ObjectRef] = []

    async def _init_agent_loop_workers(self) -> None:
        self.agent_loop_workers = self.llm_client.servers
        begun = [server.begin_rollouts.remote(self.config) for server in self.agent_loop_workers]
        await asyncio.gather(*begun)

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Begin, as verl's, whose workers answer at once."""
        parts = prompts.chunk(len(self.agent_loop_workers))
        workers = self.agent_loop_workers[: len(parts)]
        self._running = [
            worker.generate_sequences.remote(part)
            for worker, part in zip(workers, parts, strict=True)
        ]

    def wait(self) -> None:
        """Until what was begun last is written. Looking into the queue for it again and again
        would take time from the engines."""
        ray.get(self._running)
