"""A corpus directory, and BM25 over it in this process.

The directory has ``documents.jsonl`` (one ``{"id": ..., "contents": ...}`` a line, Search-R1's
format), where each of its lines begins, the index of the `bm25s` library, and ``corpus.json``,
whose ``version`` is the hash of the documents and of how they are indexed. Index and documents are
mapped into memory, not read: processes on one machine share them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json

DOCUMENTS, OFFSETS, INDEX, MANIFEST = "documents.jsonl", "offsets.npy", "bm25", "corpus.json"
MAX_TERMS = 64
"""Different words of a query that are looked up."""
SETTINGS = {"method": "lucene", "k1": 0.9, "b": 0.4, "stopwords": "en"}
"""k1 and b as in Pyserini, whose BM25 Search-R1 uses."""


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


def build_corpus(documents: Iterable[Document], out: Path) -> dict[str, Any]:
    """Write a corpus directory; the same documents give the same version.

    Returns:
        What ``corpus.json`` says: ``documents`` (how many), ``bm25`` (its settings, the library's
        version included) and ``version``.

    Raises:
        UserError: there is no document, or two have one id.
    """
    import bm25s

    settings = SETTINGS | {"bm25s": importlib.metadata.version("bm25s")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        texts, offsets, ids = [], [0], set()
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
                texts.append(document.contents)
        if not texts:
            raise UserError("corpus: there is no document")
        np.save(partial / OFFSETS, np.array(offsets, dtype=np.int64))
        index = bm25s.BM25(method=SETTINGS["method"], k1=SETTINGS["k1"], b=SETTINGS["b"])
        index.index(_words(texts), show_progress=False)
        index.save(str(partial / INDEX), show_progress=False)
        manifest = {
            "documents": len(texts),
            "bm25": settings,
            "version": digest.hexdigest(),
        }
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


def corpus_version(directory: Path | str) -> str:
    """Hash of a corpus: of its documents and how they are indexed.

    Raises:
        UserError: this is no corpus directory.
    """
    try:
        return read_json(Path(directory) / MANIFEST)["version"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory} is no corpus directory ({error}): make it with the rule build_corpus"
        ) from error


class Bm25:
    """BM25 over a corpus directory.

    The result for a query is a function of the query and the corpus: of documents with the same
    score the earlier one is better. A query is a text to look up; whatever it contains, at most
    :data:`MAX_TERMS` of its words are.
    """

    def __init__(self, directory: Path | str) -> None:
        import bm25s

        directory = Path(directory)
        self.version = corpus_version(directory)
        self._index = bm25s.BM25.load(
            str(directory / INDEX), mmap=True, load_corpus=False, show_progress=False
        )
        self._offsets = np.load(directory / OFFSETS, mmap_mode="r")
        self._documents = np.memmap(directory / DOCUMENTS, dtype=np.uint8, mode="r")
        self._vocabulary = self._index.vocab_dict

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def search(self, queries: Sequence[str], topk: int) -> list[list[Found]]:
        """By query: at most ``topk`` documents that have a word of it, best first."""
        return [self._search(query, topk) for query in queries]

    def _search(self, query: str, topk: int) -> list[Found]:
        words = list(dict.fromkeys(_words([query[:10_000]])[0]))
        known = [word for word in words if word in self._vocabulary][:MAX_TERMS]
        if not known or topk < 1:
            return []
        scores = self._index.get_scores(known)
        if topk < len(scores):
            least = np.partition(scores, len(scores) - topk)[len(scores) - topk]
        else:
            least = 0.0
        chosen = np.flatnonzero((scores >= least) & (scores > 0))
        best = chosen[np.lexsort((chosen, -scores[chosen]))][:topk]
        return [Found(self._document(int(row)), float(scores[row])) for row in best]

    def _document(self, row: int) -> Document:
        line = json.loads(bytes(self._documents[self._offsets[row] : self._offsets[row + 1]]))
        return Document(line["id"], line["contents"])


def _words(texts: list[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(
        texts, stopwords=SETTINGS["stopwords"], return_ids=False, show_progress=False
    )
