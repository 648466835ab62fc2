"""Dialogues of one model with a search engine, from one vLLM engine, turn by turn."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow import config
from criticflow.logs import progress
from criticflow.models.corpora import open_retriever
from criticflow.models.sampling import COLUMNS, Engine, Messages, request_seeds
from criticflow.retrieval.corpus import Retriever
from criticflow.retrieval.dialogue import Codec, Dialogue, Limits
from criticflow.retrieval.protocol import FORMATS, Format
from criticflow.retrieval.settings import limits

DIALOGUE_COLUMNS = [*COLUMNS, "written", "turns", "searches", "tokens_read"]


@dataclass(frozen=True)
class SearchEngine:
    """What a model's searches are answered with, and the limits of its dialogues."""

    retriever: Retriever
    limits: Limits
    topk: int
    format: Format = FORMATS["tags"]


def search_engine(task: config.Task, corpus: Path | str | None) -> SearchEngine | None:
    """What a task's dialogues need; None: the task has no search.

    Raises:
        UserError: the corpus is no corpus, or the retriever does not answer.
    """
    if task.search is None:
        return None
    retriever = open_retriever(task.search.service, corpus)
    bounds = limits(task.search, task.max_response_length)
    return SearchEngine(retriever, bounds, task.search.topk, FORMATS[task.search.format])


def tools(search: SearchEngine | None) -> list[dict[str, Any]] | None:
    """What a chat template shows of the search engine; None: nothing."""
    return None if search is None else search.format.tools


def respond(
    engine: Engine,
    search: SearchEngine | None,
    prompts: Sequence[Messages],
    n: int,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """Responses of one turn, or whole dialogues where the task has search (:func:`converse`)."""
    if search is None:
        return engine.generate(prompts, n, temperature, max_tokens, seed)
    return converse(engine, search, prompts, n, temperature, seed)


def turn_seed(seed: int, sample: int, turn: int) -> int:
    """A seed for one turn of one sample of a prompt whose seed is ``seed``."""
    digest = hashlib.sha256(f"{seed}/{sample}/{turn}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 2


def converse(
    engine: Engine,
    search: SearchEngine,
    prompts: Sequence[Messages],
    n: int,
    temperature: float,
    seed: int,
) -> pd.DataFrame:
    """Hold ``n`` dialogues per prompt; temperature 0 with ``n`` 1 is greedy.

    All dialogues make a turn together, in one call of the engine. Each turn has a seed of its own,
    drawn from ``seed``, the prompt's text, the sample and the turn: a dialogue depends on no other.

    Returns:
        The columns of :meth:`criticflow.models.sampling.Engine.generate`, where ``response`` and
        ``tokens`` are the whole dialogue after the prompt, and ``n_tokens`` and ``logprobs`` are of
        the tokens that the model wrote; besides ``written`` (1 where a token of ``tokens`` is the
        model's own), ``turns``, ``searches`` and ``tokens_read`` (how many).

    Raises:
        UserError: a prompt leaves no room for ``max_response_tokens``, or the retriever is gone.
    """
    codec = Codec(engine.tokenizer, search.format)
    texts = engine.render(prompts)
    places = [(prompt, sample) for prompt in range(len(texts)) for sample in range(n)]
    dialogues = [Dialogue(codec.ids(texts[prompt]), search.limits, codec) for prompt, _ in places]
    of_prompt = request_seeds(texts, seed)
    seeds = [(of_prompt[prompt], sample) for prompt, sample in places]
    _hold(engine, search, dialogues, seeds, temperature)
    rows = [
        (
            prompt,
            sample,
            texts[prompt],
            dialogue.prompt,
            codec.text(dialogue.tokens),
            dialogue.tokens,
            sum(dialogue.written),
            dialogue.logprobs,
            dialogue.truncated,
            dialogue.written,
            dialogue.turns,
            len(dialogue.queries),
            len(dialogue.tokens) - sum(dialogue.written),
        )
        for (prompt, sample), dialogue in zip(places, dialogues, strict=True)
    ]
    return pd.DataFrame(rows, columns=DIALOGUE_COLUMNS)


@dataclass(frozen=True)
class State:
    """How far a dialogue has come: ids of the prompt, ids of what followed, and which of those the
    model wrote (1). It lies where the model writes next."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    written: Sequence[int]


def continue_dialogues(
    engine: Engine,
    search: SearchEngine,
    states: Sequence[State],
    n: int,
    temperature: float,
    seed: int,
) -> list[list[Dialogue]]:
    """Hold each dialogue to its end ``n`` times, as :func:`converse` would have.

    Returns:
        By state and sample: the whole dialogue, what was there of it included.
    """
    codec = Codec(engine.tokenizer, search.format)
    begun = [(one.prompt, one.tokens, one.written) for one in states]
    dialogues = [[Dialogue.after(*one, search.limits, codec) for _ in range(n)] for one in begun]
    seeds = request_seeds([(*one.prompt, *one.tokens) for one in states], seed)
    places = [(seed, sample) for seed in seeds for sample in range(n)]
    _hold(engine, search, [one for each in dialogues for one in each], places, temperature)
    return dialogues


def _hold(
    engine: Engine,
    search: SearchEngine,
    dialogues: Sequence[Dialogue],
    seeds: Sequence[tuple[int, int]],
    temperature: float,
) -> None:
    """Hold all dialogues to their ends, turn by turn.

    Args:
        seeds: of each, the seed of its prompt or state, and which of its samples it is.
    """
    foreign: Counter[str] = Counter()
    while waiting := [i for i, dialogue in enumerate(dialogues) if dialogue.request is not None]:
        requests = [dialogues[i].request for i in waiting]
        outputs = engine.sample(
            [request.ids for request in requests],
            [
                turn_seed(*seeds[i], request.turn)
                for i, request in zip(waiting, requests, strict=True)
            ],
            1,
            temperature,
            [request.max_tokens for request in requests],
            logprobs=True,
            stop=search.format.stop,
        )
        for i, (output,) in zip(waiting, outputs, strict=True):
            dialogues[i].wrote(output.token_ids, output.logprobs.logprobs)
        foreign.update(one.foreign.name for i in waiting if (one := dialogues[i]).foreign)
        asked = [i for i in waiting if dialogues[i].query is not None]
        found = search.retriever.search([dialogues[i].query for i in asked], search.topk)
        for i, documents in zip(asked, found, strict=True):
            dialogues[i].observed([one.document.contents for one in documents])
    for name, turns in foreign.items():
        progress(
            f"{turns} turns of {len(dialogues)} dialogues search in the format {name}, and "
            f"search.format is {search.format.name}: nothing was searched for them"
        )
