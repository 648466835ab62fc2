"""The corpus that a task's searches find their documents in."""

from __future__ import annotations

from pathlib import Path

from criticflow import config
from criticflow.logs import progress
from criticflow.retrieval.bm25 import build_corpus
from criticflow.retrieval.corpus import read_documents
from criticflow.tasks.search import TASK


def build(source: config.Source, file: str | None, out: Path) -> None:
    """Write a corpus directory.

    Args:
        source: of the task's questions.
        file: the documents, JSON lines; None: those that go with generated questions.

    Raises:
        UserError: there are no documents, or they cannot be read.
    """
    documents = TASK.documents(source) if file is None else read_documents(Path(file))
    manifest = build_corpus(documents, out)
    progress(f"{manifest['documents']} documents, version {manifest['version'][:16]}")
