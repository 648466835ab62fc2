"""Dialogues with a search engine, continued from their states for an oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from criticflow.models.corpora import open_retriever
from criticflow.retrieval.dialogue import Codec, Dialogue
from criticflow.retrieval.protocol import FORMATS
from criticflow.retrieval.settings import limits
from criticflow.verl_plugin.search_loop import search_settings

Generate = Callable[[list[int], int, int, list[str]], Awaitable[list[int]]]
"""Ids that follow other ids: at most so many, of this turn, up to one of these texts."""


class Continuing:
    """
    Args:
        config: verl's whole configuration.
        tokenizer: the actor's.

    Raises:
        UserError: the retriever does not answer, or there is no corpus.
    """

    def __init__(self, config: DictConfig, tokenizer: Any) -> None:
        search, corpus, _ = search_settings(config)
        self.limits = limits(search, config.actor_rollout_ref.rollout.response_length)
        self.codec = Codec(tokenizer, FORMATS[search.format])
        self.retriever, self.topk = open_retriever(search.service, corpus), search.topk

    async def __call__(
        self,
        prompt: Sequence[int],
        tokens: Sequence[int],
        written: Sequence[int],
        generate: Generate,
    ) -> tuple[list[int], int]:
        """What follows a state, to the end of the dialogue, and how much of it the actor wrote."""
        dialogue = Dialogue.after(prompt, tokens, written, self.limits, self.codec)
        stop = self.codec.format.stop
        while (request := dialogue.request) is not None:
            dialogue.wrote(await generate(request.ids, request.max_tokens, request.turn, stop))
            if dialogue.query is not None:
                # In a thread: the other dialogues go on meanwhile.
                (found,) = await asyncio.to_thread(
                    self.retriever.search, [dialogue.query], self.topk
                )
                dialogue.observed([one.document.contents for one in found])
        return dialogue.tokens[len(tokens) :], sum(dialogue.written[len(tokens) :])
