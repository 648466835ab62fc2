"""Dense retrieval over a corpus directory, in this process: an encoder's vectors in an index of
`faiss`, searched by inner product.

The directory has the encoder besides, so that nothing is looked up when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import sha256
from criticflow.logs import progress
from criticflow.models import hub
from criticflow.models.directory import check_model_directory, model_files
from criticflow.models.encoder import Encoder
from criticflow.retrieval.corpus import (
    DOCUMENTS,
    Document,
    Documents,
    Found,
    read_documents,
    read_manifest,
    write_corpus,
)

KIND, INDEX, ENCODER = "dense", "dense.faiss", "encoder"
BATCH = 64
"""Documents that are encoded at once."""
FITTED = 1_000_000
"""Documents, drawn at random, that the lists and codes of a compressed index are fitted to."""
SPARE = 16
"""Further documents whose order is computed anew, see :class:`Dense`."""
MAX_CHARACTERS = 10_000
"""Of a text that the tokenizer is given; what it encodes of it, ``max_tokens`` says."""


def build_dense_corpus(
    documents: Iterable[Document], out: Path, settings: config.Dense
) -> dict[str, Any]:
    """Write a corpus directory that :class:`Dense` searches (:func:`write_corpus`).

    On a GPU where this process has one. The index is in memory until it is written.

    Raises:
        UserError: faiss is not installed, or does not take such an index; the encoder is missing
            or broken.
    """
    import torch

    faiss = _faiss()
    commit = hub.commit(settings.encoder, settings.revision)
    source = Path(hub.local_copy(settings.encoder, commit))
    check_model_directory(source)
    encoder = Encoder(source, settings.max_tokens, "cuda" if torch.cuda.is_available() else "cpu")
    try:
        index = faiss.index_factory(encoder.size, settings.index, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(
            f"search.dense.index: faiss makes no {settings.index!r} of vectors of {encoder.size} "
            f"numbers ({_last_line(error)})"
        ) from error
    described = settings.model_dump(mode="json") | {
        "revision": commit,
        "weights": [sha256(path) for path in model_files(source)],
        "faiss": faiss.__version__,
    }

    def write_index(directory: Path) -> None:
        encoder.save(directory / ENCODER)
        if not index.is_trained:
            _fit(index, Documents(directory), encoder, settings)
        for texts in _batches(one.contents for one in read_documents(directory / DOCUMENTS)):
            index.add(encoder.passages(texts))
            if index.ntotal // 100_000 > (index.ntotal - len(texts)) // 100_000:
                progress(f"{index.ntotal} documents encoded")
        faiss.write_index(index, str(directory / INDEX))

    return write_corpus(documents, out, KIND, described, write_index)


def _fit(index: Any, documents: Documents, encoder: Encoder, settings: config.Dense) -> None:
    count = len(documents)
    rows = np.random.default_rng(0).permutation(count)[:FITTED]
    texts = (documents[int(row)].contents for row in rows)
    vectors = [encoder.passages(batch) for batch in _batches(texts)]
    try:
        index.train(np.concatenate(vectors))
    except RuntimeError as error:
        raise UserError(
            f"search.dense.index: {count} documents are too few for {settings.index!r} "
            f"({_last_line(error)}): use Flat"
        ) from error
    if "IVF" in settings.index:
        _faiss().extract_index_ivf(index).nprobe = settings.probes  # is written with the index


class Dense:
    """Nearest documents of a corpus directory by inner product, as far as its index is exact.

    A result is a function of query and corpus, whatever else is searched for at the same time:
    queries are encoded one by one, always on the CPU. faiss, whose sums and order of equals may
    depend on how many queries it has, only proposes ``topk`` and :data:`SPARE` documents, whose
    scores are then computed here. Of documents with the same score the earlier one is better.
    """

    def __init__(self, directory: Path | str) -> None:
        directory, faiss = Path(directory), _faiss()
        manifest = read_manifest(directory)
        self.version, settings = manifest["version"], manifest[KIND]
        # Inverted lists and plain codes are mapped into memory by different code.
        mapped = faiss.IO_FLAG_MMAP if "IVF" in settings["index"] else faiss.IO_FLAG_MMAP_IFC
        self._index = faiss.read_index(str(directory / INDEX), mapped)
        self._documents = Documents(directory)
        self._encoder = Encoder(directory / ENCODER, settings["max_tokens"])

    def __len__(self) -> int:
        return len(self._documents)

    def search(self, queries: Sequence[str], topk: int) -> list[list[Found]]:
        """By query: ``topk`` documents, best first; fewer if the lists that are looked into have no
        more."""
        if not queries or topk < 1:
            return [[] for _ in queries]
        vectors = self._encoder.queries([query[:MAX_CHARACTERS] for query in queries])
        most = min(topk + SPARE, len(self))
        _, rows, near = self._index.search_and_reconstruct(vectors, most)
        return [self._best(*one, topk) for one in zip(vectors, rows, near, strict=True)]

    def _best(
        self, vector: np.ndarray, rows: np.ndarray, near: np.ndarray, topk: int
    ) -> list[Found]:
        there = rows >= 0
        rows = rows[there]
        scores = (near[there].astype(np.float64) * vector).sum(axis=1)
        best = np.lexsort((rows, -scores))[:topk]
        return [Found(self._documents[int(rows[i])], float(scores[i])) for i in best]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while batch := [text[:MAX_CHARACTERS] for text in islice(texts, BATCH)]:
        yield batch


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "search.dense needs faiss, which is not installed: pip install faiss-cpu "
            "(criticflow's extra `dense`)"
        ) from error
    return faiss


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
