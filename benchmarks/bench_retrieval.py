"""Speed of BM25 by size of the corpus: ``python benchmarks/bench_retrieval.py [DOCUMENTS ...]``.

Documents are synthetic: 40 words each, drawn from 50,000 by Zipf's law with exponent 1.1; a query
is five words of a document. Prints one JSON object a size: seconds of CPU time to make the corpus
and for one query, the peak of main memory (of this process, so sizes rise), and bytes on disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from criticflow.retrieval.bm25 import Bm25, build_corpus
from criticflow.retrieval.corpus import Document

WORDS, VOCABULARY, EXPONENT = 40, 50_000, 1.1
QUERIES = 100


def documents(count: int) -> Iterator[Document]:
    rng = np.random.default_rng(0)
    ranks = np.arange(1, VOCABULARY + 1) ** -EXPONENT
    names = np.array([f"w{number}" for number in range(VOCABULARY)])
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        words = rng.choice(names, (size, WORDS), p=ranks / ranks.sum())
        for row, text in enumerate(words):
            yield Document(str(start + row), " ".join(text))


def measure(count: int) -> dict[str, float]:
    queries = [" ".join(document.contents.split()[:5]) for document in documents(QUERIES)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        begun = time.process_time()
        build_corpus(documents(count), corpus)
        built = time.process_time() - begun
        retriever = Bm25(corpus)
        retriever.search(queries, 3)  # reads the files once
        begun = time.process_time()
        retriever.search(queries, 3)
        spent = (time.process_time() - begun) / QUERIES
        disk = sum(path.stat().st_size for path in corpus.rglob("*") if path.is_file())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "documents": count,
        "build_s": round(built, 1),
        "query_ms": round(1000 * spent, 2),
        "memory_gib": round(memory, 2),
        "disk_mb": round(disk / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=int, nargs="*", default=[20_000, 100_000, 1_000_000])
    for count in sorted(parser.parse_args().documents):
        print(json.dumps(measure(count)), flush=True)


if __name__ == "__main__":
    main()
