"""Passes errors of rollouts on to the trainer, which counts the trajectories that were lost.

verl 0.9.1 writes such an error into the log of the agent loop's worker alone. Here it goes with the
prompt's status into the queue between verl's processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ray
import transfer_queue as tq
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

ERROR = "error"
"""Key of a prompt's tag in verl's queue."""
LONGEST = 1000
"""Characters of an error that are told."""


def rollout_errors(partition: str, prompts: Iterable[str]) -> list[str]:
    """What the rollouts of prompts raised, from verl's queue, as long as that knows the prompts."""
    tags = (tq.kv_list() or {}).get(partition, {})
    return [tags[prompt][ERROR] for prompt in prompts if ERROR in tags.get(prompt, {})]


class TellsErrors:
    """Mixed into verl's agent loop worker: puts an error where the trainer finds it."""

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any
    ) -> None:
        try:
            await super()._run_agent_loop(sampling_params, trajectory=trajectory, **kwargs)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            await tq.async_kv_put(
                key=kwargs["uid"],
                partition_id="val" if trajectory["validate"] else "train",
                tag={ERROR: text[:LONGEST]},
            )
            raise


class TellingAgentLoopWorker(TellsErrors, AgentLoopWorkerTQ.__ray_actor_class__):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Ray sends an actor's inherited methods by value; verl's would look for a class that is
        # no longer this one's base.
        super().__init__(*args, **kwargs)


class TellingAgentLoopManager(AgentLoopManagerTQ):
    """``rollout.agent.agent_loop_manager_class``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(TellingAgentLoopWorker)
