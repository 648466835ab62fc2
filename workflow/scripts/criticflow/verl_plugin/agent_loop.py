"""Rollouts that can be repeated: verl's single-turn rollout with a seed for each trajectory.

verl samples all trajectories of a replica from one random stream, so a response depends on the
order in which requests arrive. Here trajectory i of step k is sampled with a seed of its
own, a function of (``rollout.seed``, step, prompt, sample number).
"""

from __future__ import annotations

import hashlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


def sampling_seed(seed: int, trajectory: str) -> int:
    """A 31-bit seed for one trajectory, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}/{trajectory}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class SeededAgentLoop(SingleTurnAgentLoop):
    """``actor_rollout_ref.rollout.agent.default_agent_loop=criticflow_seeded``."""

    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any
    ) -> AgentLoopOutput:
        # uid names step and prompt (trainer.prompt_names), session_id the sample.
        trajectory = f"{kwargs['uid']}_{kwargs['session_id']}"
        seed = sampling_seed(self.rollout_config.seed, trajectory)
        return await super().run({**sampling_params, "seed": seed}, priority=priority, **kwargs)
