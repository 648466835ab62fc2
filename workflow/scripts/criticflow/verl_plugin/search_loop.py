"""Rollouts with search: the dialogues of Search-R1 as an agent loop of verl.

verl's own ``tool_agent`` hands a tool's error to the model as if it had been found, cuts what a
tool says in its middle, and samples all turns from one random stream. Here an error of the
retriever is an error of the rollout (the step is not trained on, and a retry resumes), limits are
the task's own, and every turn is sampled with a seed of its own, a function of (``rollout.seed``,
step, prompt, sample, turn).

What was read has ``response_mask`` 0. verl takes from this mask which tokens take part in
advantages (GAE goes around the others, whitening leaves them out), in both losses and in every KL.
With ``search.mask_observations=false`` the mask is 1, and they take part in all of these as if the
actor had written them.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.utils.rollout_trace import rollout_trace_op

from criticflow.retrieval.dialogue import Dialogue
from criticflow.verl_plugin.dialogues import Dialogues, Held, SearchSettings


class SearchAgentLoop(AgentLoopBase):
    """``actor_rollout_ref.rollout.agent.default_agent_loop=criticflow_search``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = SearchSettings.read(self.config)
        self.dialogues = Dialogues(self.settings, self.tokenizer)

    @rollout_trace_op
    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any
    ) -> AgentLoopOutput:
        # uid names step and prompt (trainer.prompt_names), session_id the sample.
        trajectory = f"{kwargs['uid']}_{kwargs['session_id']}"
        prompt = await self.ct_build_initial_tokens(
            list(kwargs["raw_prompt"]), tools=self.dialogues.codec.format.tools
        )
        held = await self.hold(prompt, trajectory, sampling_params, int(priority))
        return AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=held.tokens,
            response_mask=response_mask(held, self.settings.masked),
            response_logprobs=_over_all_tokens(held) if held.logprobs else None,
            multi_modal_data={},
            num_turns=1 + held.turns,
            metrics=held.metrics,
            extra_fields=held.extra_fields | {"turn_scores": [], "tool_rewards": []},
        )

    async def hold(
        self, prompt: list[int], trajectory: str, sampling_params: dict[str, Any], priority: int
    ) -> Held:
        """Hold a dialogue, with a call of the engine for each turn."""
        # One name for all turns: verl sends them to one engine, whose cache has them.
        name = uuid4().hex
        generate = partial(self.server_manager.generate, request_id=name, priority=priority)
        return await self.dialogues.hold(prompt, trajectory, sampling_params, generate)


def response_mask(dialogue: Dialogue | Held, masked: bool) -> list[int]:
    """1 where a token of the response takes part in advantages, losses and KL."""
    return list(dialogue.written) if masked else [1] * len(dialogue.tokens)


def _over_all_tokens(held: Held) -> list[float]:
    """Log-probabilities of the response, 0 where a token was not sampled."""
    own = iter(held.logprobs)
    return [next(own) if written else 0.0 for written in held.written]
