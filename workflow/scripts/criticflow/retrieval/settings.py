"""From a task's configuration to a retriever and the limits of its dialogues."""

from __future__ import annotations

from pathlib import Path

from criticflow import config
from criticflow.retrieval.bm25 import Bm25
from criticflow.retrieval.corpus import Retriever
from criticflow.retrieval.dialogue import Limits


def limits(search: config.Search, max_response_length: int) -> Limits:
    """Limits of a dialogue.

    Args:
        max_response_length: tokens of all turns and observations together.
    """
    return Limits(
        max_turns=search.max_turns,
        max_turn_tokens=search.max_turn_tokens,
        max_observation_tokens=search.max_observation_tokens,
        max_response_tokens=max_response_length,
        invalid=search.invalid,
    )


def open_retriever(service: config.Service | None, corpus: Path | str | None) -> Retriever:
    """The service if one has an address, else BM25 over a corpus directory in this process.

    Both find the same: a service without address is one that a training starts for itself
    (:mod:`criticflow.training.own_retriever`), and other jobs need none.

    Raises:
        UserError: the service does not answer, or there is no such directory.
    """
    if service is not None and service.url is not None:
        from criticflow.retrieval.client import ServiceRetriever

        retriever = ServiceRetriever(service)
        retriever.check()
        return retriever
    if corpus is None:
        raise ValueError("a corpus directory is needed where there is no service")
    return Bm25(corpus)
