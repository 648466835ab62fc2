"""A vLLM server with an agent loop beside its engine (see ``batched_rollouts``)."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Hashable
from typing import Any

import ray
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.sampling_params import RequestOutputKind

from criticflow.verl_plugin import INTERPRETER
from criticflow.verl_plugin.heartbeat import heartbeat


class BatchedServer(vLLMHttpServer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if interpreter := os.environ.get(INTERPRETER):
            multiprocessing.set_executable(interpreter)  # vLLM's engine is a process of its own

    async def generate_batch(
        self, requests: list[tuple[list[int], dict[str, Any], str]]
    ) -> list[TokenOutput]:
        """Responses to requests of (prompt token ids, sampling parameters, request id)."""
        async with heartbeat(f"engine-{self.replica_rank}", self._progress):
            return await asyncio.gather(*(self._generate(*request) for request in requests))

    async def begin_rollouts(self, config: DictConfig) -> None:
        """Make the agent loop that is beside this engine, from verl's whole configuration."""
        # It imports verl's trainer: not while the engine starts.
        from criticflow.verl_plugin.batched_rollouts import BatchedAgentLoop, OwnEngine

        self.agent_loop = BatchedAgentLoop(config, OwnEngine(self._generate))
        gc.freeze()  # what has been imported stays: no batch waits while it is looked through

    async def generate_sequences(self, prompts: TensorDict) -> None:
        """Trajectories of the agent loop, from prompts to verl's queue."""
        async with heartbeat(f"engine-{self.replica_rank}", self._progress):
            await self.agent_loop.generate_sequences(prompts)

    async def _generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str
    ) -> TokenOutput:
        # Its tokens, once they are all there, and its text only where that may end it.
        final = {
            "output_kind": RequestOutputKind.FINAL_ONLY,
            "detokenize": "stop" in sampling_params,
        }
        output = await self.generate(prompt_ids, sampling_params | final, request_id)
        step = output.extra_fields.get("global_steps")
        output.extra_fields |= {"min_global_steps": step, "max_global_steps": step}
        return output

    def _progress(self) -> Hashable:
        """Requests that are left, and how many tokens they have by now."""
        states = list(self.engine.output_processor.request_states.values())
        if not states:  # searches, or scores: the engine waits, and is not stuck
            return time.monotonic()
        return len(states), sum(state.detokenizer.num_output_tokens() for state in states)


class BatchedReplica(vLLMReplica):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(BatchedServer)
