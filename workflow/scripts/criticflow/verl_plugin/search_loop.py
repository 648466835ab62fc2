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

from typing import Any
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.utils.profiler import simple_timer
from verl.utils.rollout_trace import rollout_trace_op

from criticflow.config.tasks import Search
from criticflow.models.corpora import open_retriever
from criticflow.retrieval.corpus import Found, Retriever
from criticflow.retrieval.dialogue import Codec, Dialogue
from criticflow.retrieval.protocol import FORMATS
from criticflow.retrieval.settings import limits
from criticflow.verl_plugin.agent_loop import sampling_seed
from criticflow.verl_plugin.call_batching import CallBatcher
from criticflow.verl_plugin.settings import as_bool

_searchers: dict[str, CallBatcher[str, list[Found]]] = {}
"""One retriever a process, shared by its trajectories: verl makes an agent loop for each."""


class SearchAgentLoop(AgentLoopBase):
    """``actor_rollout_ref.rollout.agent.default_agent_loop=criticflow_search``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        search, corpus, self.masked = search_settings(self.config)
        self.limits = limits(search, self.rollout_config.response_length)
        self.format = FORMATS[search.format]
        self.codec = Codec(self.tokenizer, self.format)
        place = f"{corpus} {search.service}"
        if place not in _searchers:
            retriever = open_retriever(search.service, corpus)
            _searchers[place] = CallBatcher(_Sender(self.loop, retriever, search.topk))
        self.search = _searchers[place]

    @rollout_trace_op
    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any
    ) -> AgentLoopOutput:
        # uid names step and prompt (trainer.prompt_names), session_id the sample.
        trajectory = f"{kwargs['uid']}_{kwargs['session_id']}"
        metrics: dict[str, Any] = {}
        prompt = await self.ct_build_initial_tokens(
            list(kwargs["raw_prompt"]), tools=self.format.tools
        )
        dialogue = Dialogue(prompt, self.limits, self.codec)
        steps: list[Any] = []
        request_id = (
            uuid4().hex
        )  # of all turns: verl sends them to one engine, whose cache has them
        while (request := dialogue.request) is not None:
            params = sampling_params | {
                "seed": sampling_seed(self.rollout_config.seed, f"{trajectory}/{request.turn}"),
                "max_tokens": request.max_tokens,
                "stop": self.format.stop,
                "include_stop_str_in_output": True,
            }
            with simple_timer("generate_sequences", metrics):
                output = await self.server_manager.generate(
                    request_id=request_id,
                    prompt_ids=request.ids,
                    sampling_params=params,
                    priority=int(priority),
                )
            metrics["num_preempted"] = metrics.get("num_preempted", 0) + (output.num_preempted or 0)
            steps.append(output.extra_fields)
            dialogue.wrote(output.token_ids, output.log_probs)
            if dialogue.query is not None:
                with simple_timer("tool_calls", metrics):
                    found = await self.search(dialogue.query)
                dialogue.observed([one.document.contents for one in found])
        return AgentLoopOutput(
            prompt_ids=dialogue.prompt,
            response_ids=dialogue.tokens,
            response_mask=response_mask(dialogue, self.masked),
            response_logprobs=_over_all_tokens(dialogue) if dialogue.logprobs else None,
            multi_modal_data={},
            num_turns=1 + dialogue.turns,
            metrics=metrics,
            extra_fields=_versions(steps) | {"turn_scores": [], "tool_rewards": []},
        )


def search_settings(config: DictConfig) -> tuple[Search, str | None, bool]:
    """``search.*`` of verl's whole configuration: the dialogues, the corpus directory, and whether
    what was read is masked.

    Raises:
        UserError: ``mask_observations`` is no boolean.
        ValidationError: another value is none that the configuration would take.
    """
    given = OmegaConf.to_container(config.search, resolve=True)
    masked = as_bool("search.mask_observations", given.pop("mask_observations"))
    corpus = given.pop("corpus")
    return Search.model_validate(given), corpus, masked


def response_mask(dialogue: Dialogue, masked: bool) -> list[int]:
    """1 where a token of the response takes part in advantages, losses and KL."""
    return list(dialogue.written) if masked else [1] * len(dialogue.tokens)


class _Sender:
    """Many queries at once, in a thread: the event loop goes on with other trajectories."""

    def __init__(self, loop: Any, retriever: Retriever, topk: int) -> None:
        self.loop, self.retriever, self.topk = loop, retriever, topk

    async def __call__(self, queries: list[str]) -> list[list[Found]]:
        return await self.loop.run_in_executor(None, self.retriever.search, queries, self.topk)


def _over_all_tokens(dialogue: Dialogue) -> list[float]:
    """Log-probabilities of the response, 0 where a token was not sampled."""
    own = iter(dialogue.logprobs)
    return [next(own) if written else 0.0 for written in dialogue.written]


def _versions(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The weights' versions that a dialogue was sampled with: verl's words for them."""
    fields = dict(steps[-1])
    first = [step.get("min_global_steps") for step in steps if step.get("min_global_steps")]
    if first:
        fields["min_global_steps"] = min(first)
    return fields
