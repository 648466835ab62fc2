"""A vLLM server that takes a whole batch of requests in one call (see ``batched_rollouts``)."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from typing import Any

import ray
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
        # The response alone, rather than the response so far after each token.
        final = {"output_kind": RequestOutputKind.FINAL_ONLY}
        async with heartbeat(f"engine-{self.replica_rank}", self._progress):
            return await asyncio.gather(
                *(
                    self.generate(prompt, sampling | final, name)
                    for prompt, sampling, name in requests
                )
            )

    def _progress(self) -> tuple[int, int]:
        """Requests that are left, and how many tokens they have by now."""
        states = list(self.engine.output_processor.request_states.values())
        return len(states), sum(state.detokenizer.num_output_tokens() for state in states)


class BatchedReplica(vLLMReplica):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(BatchedServer)
