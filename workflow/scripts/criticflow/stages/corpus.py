"""The corpus that a task's searches find their documents in."""

from __future__ import annotations

from pathlib import Path

from criticflow import config
from criticflow.logs import progress
from criticflow.models.corpora import build_corpus
from criticflow.retrieval.corpus import read_documents
from criticflow.tasks.search import TASK


def build(
    source: config.Source, file: str | None, out: Path, dense: config.Dense | None = None
) -> None:
    """Write a corpus directory.

    Args:
        source: of the task's questions.
        file: the documents, JSON lines; None: those that go with generated questions.
        dense: the encoder that searches in them; None: BM25.

    Raises:
        UserError: there are no documents, or they cannot be read; the encoder cannot be
            used.
    """
    documents = TASK.documents(source) if file is None else read_documents(Path(file))
    manifest = build_corpus(documents, out, dense)
    progress(f"{manifest['documents']} documents, version {manifest['version'][:16]}")
