"""BM25 over a corpus directory, in this process, by the library `bm25s`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from criticflow.retrieval.corpus import (
    DOCUMENTS,
    Document,
    Documents,
    Found,
    read_documents,
    read_manifest,
    write_corpus,
)

KIND = INDEX = "bm25"
MAX_TERMS = 64
"""Different words of a query that are looked up."""
SETTINGS = {"method": "lucene", "k1": 0.9, "b": 0.4, "stopwords": "en"}
"""k1 and b as in Pyserini, whose BM25 Search-R1 uses."""


def build_corpus(documents: Iterable[Document], out: Path) -> dict[str, Any]:
    """Write a corpus directory that BM25 searches (:func:`write_corpus`)."""
    settings = SETTINGS | {"bm25s": importlib.metadata.version("bm25s")}
    return write_corpus(documents, out, KIND, settings, _index)


def _index(directory: Path) -> None:
    import bm25s

    index = bm25s.BM25(method=SETTINGS["method"], k1=SETTINGS["k1"], b=SETTINGS["b"])
    texts = [document.contents for document in read_documents(directory / DOCUMENTS)]
    index.index(_words(texts), show_progress=False)
    index.save(str(directory / INDEX), show_progress=False)


class Bm25:
    """BM25 over a corpus directory.

    The result for a query is a function of the query and the corpus: of documents with the same
    score the earlier one is better. A query is a text to look up; whatever it contains, at most
    :data:`MAX_TERMS` of its words are.
    """

    def __init__(self, directory: Path | str) -> None:
        import bm25s

        directory = Path(directory)
        self.version = read_manifest(directory)["version"]
        self._index = bm25s.BM25.load(
            str(directory / INDEX), mmap=True, load_corpus=False, show_progress=False
        )
        self._documents = Documents(directory)
        self._vocabulary = self._index.vocab_dict

    def __len__(self) -> int:
        return len(self._documents)

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
        return [Found(self._documents[int(row)], float(scores[row])) for row in best]


def _words(texts: list[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(
        texts, stopwords=SETTINGS["stopwords"], return_ids=False, show_progress=False
    )
