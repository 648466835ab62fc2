"""Dialogues with a search engine, each held to its end by itself: for verl's agent loop
(``search_loop``), beside a rollout engine (``batched_server``), and for an oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from verl.utils.profiler import simple_timer
from verl.workers.rollout.replica import TokenOutput

from criticflow.config.tasks import Search
from criticflow.models.corpora import open_retriever
from criticflow.retrieval.corpus import Found
from criticflow.retrieval.dialogue import Codec, Dialogue
from criticflow.retrieval.protocol import FORMATS
from criticflow.retrieval.settings import limits
from criticflow.verl_plugin.agent_loop import sampling_seed
from criticflow.verl_plugin.call_batching import QUIET, CallBatcher
from criticflow.verl_plugin.settings import as_bool

Generate = Callable[..., Awaitable[TokenOutput]]
"""Of an engine: called with ``prompt_ids`` and ``sampling_params``."""


@dataclass(frozen=True)
class SearchSettings:
    """What decides the dialogues of a training.

    Attributes:
        search: of the task.
        corpus: directory, if the retriever needs one.
        masked: whether what was read takes no part in advantages, losses and KL.
        max_response_tokens: of all turns and what is read together.
        seed: of the rollouts.
    """

    search: Search
    corpus: str | None
    masked: bool
    max_response_tokens: int
    seed: int

    @classmethod
    def read(cls, config: DictConfig) -> SearchSettings:
        """From verl's whole configuration.

        Raises:
            UserError: ``mask_observations`` is no boolean.
            ValidationError: another value is none that the configuration would take.
        """
        given = OmegaConf.to_container(config.search, resolve=True)
        masked = as_bool("search.mask_observations", given.pop("mask_observations"))
        corpus, rollout = given.pop("corpus"), config.actor_rollout_ref.rollout
        search = Search.model_validate(given)
        return cls(search, corpus, masked, rollout.response_length, rollout.seed)


class Held(NamedTuple):
    """A dialogue that is over.

    Attributes:
        tokens: ids of all that follows the prompt.
        written: 1 where a token is the model's own.
        logprobs: of the tokens that the model wrote, if they were asked for.
        turns: that the model wrote.
        extra_fields: what verl notes of a trajectory, with the versions of the weights.
        metrics: seconds that verl notes.
    """

    tokens: list[int]
    written: list[int]
    logprobs: list[float]
    turns: int
    extra_fields: dict[str, Any]
    metrics: dict[str, Any]


class Dialogues:
    """
    Args:
        settings: the training's.
        tokenizer: the actor's.

    Raises:
        UserError: the chat template has no tools, and the format of searches needs them.
    """

    def __init__(self, settings: SearchSettings, tokenizer: Any) -> None:
        self.settings = settings
        self.limits = limits(settings.search, settings.max_response_tokens)
        self.codec = Codec(tokenizer, FORMATS[settings.search.format])
        self.stop_ids = stop_ids(self.codec)

    async def hold(
        self,
        prompt: Sequence[int],
        name: str,
        sampling_params: dict[str, Any],
        generate: Generate,
        tokens: Sequence[int] = (),
        written: Sequence[int] = (),
    ) -> Held:
        """Hold a dialogue to its end.

        Args:
            name: the trajectory's; each turn has a seed drawn from this, and depends on no other
                dialogue.
            tokens, written: how far it has come, if it has begun.

        Raises:
            UserError: the retriever does not answer, or there is no corpus.
        """
        dialogue = Dialogue.after(prompt, tokens, written, self.limits, self.codec)
        metrics: dict[str, Any] = {"num_preempted": 0}
        steps: list[dict[str, Any]] = []
        while (request := dialogue.request) is not None:
            params = sampling_params | {
                "seed": sampling_seed(self.settings.seed, f"{name}/{request.turn}"),
                "max_tokens": request.max_tokens,
                "stop": self.codec.format.stop,
                "stop_token_ids": self.stop_ids,
                "include_stop_str_in_output": True,
            }
            with simple_timer("generate_sequences", metrics):
                output = await generate(prompt_ids=request.ids, sampling_params=params)
            metrics["num_preempted"] += output.num_preempted or 0
            steps.append(output.extra_fields)
            dialogue.wrote(output.token_ids, output.log_probs)
            if dialogue.query is not None:
                with simple_timer("tool_calls", metrics):
                    found = await searcher(self.settings)(dialogue.query)
                dialogue.observed([one.document.contents for one in found])
        return Held(
            dialogue.tokens,
            dialogue.written,
            dialogue.logprobs,
            dialogue.turns,
            _versions(steps),
            metrics,
        )


def stop_ids(codec: Codec) -> list[int]:
    """The tokens that end a turn by themselves.

    The process that generates sees them. It knows no text, and goes on until another process has
    found one of ``Format.stop``.
    """
    ends = [(stop, codec.ids(stop)) for stop in codec.format.stop]
    return [ids[0] for stop, ids in ends if len(ids) == 1 and stop in codec.text(ids)]


_searchers: dict[str, CallBatcher[str, list[Found]]] = {}


def searcher(settings: SearchSettings) -> CallBatcher[str, list[Found]]:
    """The process's one retriever, shared by its dialogues.

    Queries that come together are one call, in a thread: other dialogues go on meanwhile.
    """
    search = settings.search
    place = f"{settings.corpus} {search.service}"
    if place not in _searchers:
        retriever = open_retriever(search.service, settings.corpus)

        async def send(queries: list[str]) -> list[list[Found]]:
            return await asyncio.to_thread(retriever.search, queries, search.topk)

        _searchers[place] = CallBatcher(send, quiet=0.0 if search.service is None else QUIET)
    return _searchers[place]


def _versions(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The weights' versions that a dialogue was sampled with: verl's words for them."""
    fields = dict(steps[-1]) if steps else {}
    first = [step.get("min_global_steps") for step in steps if step.get("min_global_steps")]
    if first:
        fields["min_global_steps"] = min(first)
    return fields
