"""A vLLM server that takes a whole batch of requests in one call (see ``batched_rollouts``)."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from functools import partial
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.sampling_params import RequestOutputKind

from criticflow.verl_plugin import INTERPRETER
from criticflow.verl_plugin.dialogues import Dialogues, Held, SearchSettings
from criticflow.verl_plugin.heartbeat import heartbeat


class BatchedServer(vLLMHttpServer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if interpreter := os.environ.get(INTERPRETER):
            multiprocessing.set_executable(interpreter)  # vLLM's engine is a process of its own
        self.dialogues: Dialogues | None = None

    async def generate_batch(
        self, requests: list[tuple[list[int], dict[str, Any], str]]
    ) -> list[TokenOutput]:
        """Responses to requests of (prompt token ids, sampling parameters, request id)."""
        async with heartbeat(f"engine-{self.replica_rank}", self._progress):
            return await asyncio.gather(*(self._generate(*request) for request in requests))

    async def hold_dialogues(
        self, begun: list[tuple[SearchSettings, list[int], str, dict[str, Any]]]
    ) -> list[Held | BaseException]:
        """Whole dialogues, with their searches, each as fast as it goes.

        Args:
            begun: of each the training's settings, prompt token ids, name, sampling parameters.
        """
        if self.dialogues is None:
            self.dialogues = Dialogues(begun[0][0], self.model_config.tokenizer)
        async with heartbeat(f"engine-{self.replica_rank}", self._progress):
            return await asyncio.gather(
                *(
                    self.dialogues.hold(*one, partial(self._generate, request_id=one[1]))
                    for _, *one in begun
                ),
                return_exceptions=True,
            )

    async def _generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str
    ) -> TokenOutput:
        # The response alone, rather than the response so far after each token.
        final = {"output_kind": RequestOutputKind.FINAL_ONLY}
        output = await self.generate(prompt_ids, sampling_params | final, request_id)
        step = output.extra_fields.get("global_steps")
        output.extra_fields |= {"min_global_steps": step, "max_global_steps": step}
        return output

    def _progress(self) -> tuple[int, int]:
        """Requests that are left, and how many tokens they have by now."""
        states = list(self.engine.output_processor.request_states.values())
        return len(states), sum(state.detokenizer.num_output_tokens() for state in states)


class BatchedReplica(vLLMReplica):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(BatchedServer)
