"""A corpus directory: documents, an index of them, and what both are.

It has ``documents.jsonl`` (one ``{"id": ..., "contents": ...}`` a line, Search-R1's format), where
each of its lines begins, an index, and ``corpus.json``, whose ``version`` is the hash of the
documents and of how they are indexed. All are mapped into memory, not read: processes on one
machine share them. What an index is, its kind says: :mod:`criticflow.retrieval.bm25`, or
:mod:`criticflow.models.dense`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json

DOCUMENTS, OFFSETS, MANIFEST = "documents.jsonl", "offsets.npy", "corpus.json"


@dataclass(frozen=True)
class Document:
    id: str
    contents: str


@dataclass(frozen=True)
class Found:
    document: Document
    score: float


class Retriever(Protocol):
    def search(self, queries: Sequence[str], topk: int) -> list[list[Found]]:
        """By query: at most ``topk`` documents, best first."""
        ...


class Corpus(Retriever, Protocol):
    """A retriever over a corpus directory in this process."""

    version: str

    def __len__(self) -> int:
        """How many documents there are."""
        ...


def write_corpus(
    documents: Iterable[Document],
    out: Path,
    kind: str,
    settings: dict[str, Any],
    index: Callable[[Path], None],
) -> dict[str, Any]:
    """Write a corpus directory; the same documents and settings give the same version.

    Args:
        kind: of the index, a key of ``corpus.json``.
        settings: of the index, as JSON: the value of that key.
        index: adds the index to a directory that has the documents.

    Returns:
        What ``corpus.json`` says: ``documents`` (how many), the kind's settings and ``version``.

    Raises:
        UserError: there is no document, or two have one id.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        offsets, ids = [0], set()
        with open(partial / DOCUMENTS, "wb") as file:
            for document in documents:
                if document.id in ids:
                    raise UserError(f"corpus: two documents have the id {document.id!r}")
                ids.add(document.id)
                line = {"id": document.id, "contents": document.contents}
                data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace")
                digest.update(data)
                file.write(data)
                offsets.append(offsets[-1] + len(data))
        if not ids:
            raise UserError("corpus: there is no document")
        np.save(partial / OFFSETS, np.array(offsets, dtype=np.int64))
        index(partial)
        manifest = {"documents": len(ids), kind: settings, "version": digest.hexdigest()}
        write_json(partial / MANIFEST, manifest)
    return manifest


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of a file in Search-R1's format: JSON lines with ``contents`` and perhaps ``id``.

    Raises:
        UserError: the file is missing, or a line is no such document.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    yield Document(str(row.get("id", number - 1)), str(row["contents"]))
                except (ValueError, KeyError, AttributeError):
                    raise UserError(
                        f"{path}: line {number} is no document: expected "
                        '{"id": ..., "contents": ...}'
                    ) from None
    except OSError as error:
        raise UserError(f"corpus: cannot read {path}: {error}") from error


def read_manifest(directory: Path | str) -> dict[str, Any]:
    """What ``corpus.json`` says.

    Raises:
        UserError: this is no corpus directory.
    """
    try:
        manifest = read_json(Path(directory) / MANIFEST)
        manifest["version"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory} is no corpus directory ({error}): make it with the rule build_corpus"
        ) from error
    return manifest


class Documents:
    """The documents of a corpus directory, by row."""

    def __init__(self, directory: Path) -> None:
        self._offsets = np.load(directory / OFFSETS, mmap_mode="r")
        self._lines = np.memmap(directory / DOCUMENTS, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Document:
        line = json.loads(bytes(self._lines[self._offsets[row] : self._offsets[row + 1]]))
        return Document(line["id"], line["contents"])
