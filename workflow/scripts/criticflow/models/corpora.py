"""From a task's configuration to a retriever. One with an encoder runs a model: so here, and not
among the modules of :mod:`criticflow.retrieval`, which need no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from criticflow import config
from criticflow.retrieval import bm25
from criticflow.retrieval.corpus import Corpus, Document, Retriever, read_manifest


def build_corpus(
    documents: Iterable[Document], out: Path, settings: config.Dense | None
) -> dict[str, Any]:
    """Write a corpus directory, and return what its ``corpus.json`` says.

    Args:
        settings: of an encoder; None: BM25.

    Raises:
        UserError: there is no document, or two have one id; the encoder cannot be used.
    """
    if settings is None:
        return bm25.build_corpus(documents, out)
    from criticflow.models.dense import build_dense_corpus

    return build_dense_corpus(documents, out, settings)


def open_corpus(directory: Path | str) -> Corpus:
    """A corpus directory, searched in this process in the way that it was made for.

    Raises:
        UserError: it is none, or what searches in it is not installed.
    """
    if bm25.KIND in read_manifest(directory):
        return bm25.Bm25(directory)
    from criticflow.models.dense import Dense

    return Dense(directory)


def open_retriever(service: config.Service | None, corpus: Path | str | None) -> Retriever:
    """The service if one has an address, else a corpus directory in this process.

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
    return open_corpus(corpus)
