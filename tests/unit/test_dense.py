"""Dense retrieval: a small random BERT as the encoder, and faiss, against plain numpy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from criticflow.config import Dense, Facts, Service
from criticflow.errors import UserError
from criticflow.models import dense
from criticflow.models.corpora import build_corpus, open_corpus, open_retriever
from criticflow.retrieval.corpus import read_manifest
from criticflow.tasks._facts import documents
from test_retriever_service import served

FACTS = Facts(people=40, questions=40)
TEXTS = [document.contents for document in documents(FACTS)]
QUERIES = ["rival of Abel Birch", "mentor", "who?", "the " + TEXTS[7], ""]
CLOSE = 1e-5
"""Scores of one pair of texts agree to this, in a batch with others or not."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A directory as the hub has them; its weights are wide, so that texts differ."""
    path = tmp_path_factory.mktemp("encoder")
    words = sorted({word.strip(".").lower() for text in TEXTS for word in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage", ":", ".", "?"]
    (path / "vocab.txt").write_text("\n".join([*special, *words]))
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(special) + len(words), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
        initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def corpus(encoder, tmp_path_factory) -> Path:
    pytest.importorskip("faiss")
    out = tmp_path_factory.mktemp("corpora") / "dense"
    build_corpus(documents(FACTS), out, Dense(encoder=str(encoder), max_tokens=32))
    return out


def vectors(encoder: Path, texts: list[str]) -> np.ndarray:
    """E5's, of one text after another."""
    tokenizer = BertTokenizer.from_pretrained(encoder)
    model = BertModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        states = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
            for text in texts
        ]
    means = np.stack([state.mean(axis=0) for state in states])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def scores(encoder: Path) -> np.ndarray:
    """Of each query (row) for each document."""
    queries = vectors(encoder, [f"query: {query}" for query in QUERIES])
    return queries @ vectors(encoder, [f"passage: {text}" for text in TEXTS]).T


def rows(found) -> np.ndarray:
    return np.array([[TEXTS.index(one.document.contents) for one in each] for each in found])


def test_the_nearest_documents_are_those_of_plain_numpy(corpus, encoder):
    found = open_corpus(corpus).search(QUERIES, 5)
    expected = scores(encoder)
    best = -np.sort(-expected, axis=1)[:, :5]
    given = np.array([[one.score for one in each] for each in found])
    assert np.abs(given - best).max() < CLOSE
    assert np.abs(np.take_along_axis(expected, rows(found), axis=1) - best).max() < CLOSE
    assert np.ptp(expected, axis=1).min() > 100 * CLOSE  # so the order says something


def test_a_result_depends_on_nothing_but_query_and_corpus(corpus):
    retriever, other = open_corpus(corpus), open_corpus(corpus)
    together = retriever.search(QUERIES * 20, 3)  # more than faiss handles one by one
    assert together == [other.search([query], 3)[0] for query in QUERIES] * 20
    assert retriever.search(QUERIES, 9)[0][:3] == together[0]
    assert retriever.search([], 3) == [] and retriever.search(["x"], 0) == [[]]
    assert len(retriever.search(["x"], 10**6)[0]) == len(retriever) == len(TEXTS)


def test_the_index_is_mapped_into_memory_and_the_encoder_lies_beside_it(corpus):
    retriever = open_corpus(corpus)
    assert len(retriever.search(["mentor"], 1)) == 1
    assert str(corpus / dense.INDEX) in Path("/proc/self/maps").read_text()
    assert (corpus / dense.ENCODER / "tokenizer.json").is_file()


def test_a_compressed_index_finds_nearly_the_same(corpus, encoder, tmp_path):
    small = Dense(encoder=str(encoder), max_tokens=32, index="IVF4,SQ8", probes=4)
    build_corpus(documents(FACTS), tmp_path / "small", small)
    retriever = open_corpus(tmp_path / "small")
    assert str(tmp_path / "small" / dense.INDEX) in Path("/proc/self/maps").read_text()
    exact, near = (rows(one.search(QUERIES, 5)) for one in (open_corpus(corpus), retriever))
    shared = [len({*one} & {*two}) for one, two in zip(exact, near, strict=True)]
    assert np.mean(shared) > 4
    assert retriever.search(QUERIES * 20, 3) == retriever.search(QUERIES, 3) * 20


def test_a_corpus_is_versioned_by_documents_encoder_and_index(corpus, encoder, tmp_path):
    def version(**changes) -> str:
        settings = Dense(**{"encoder": str(encoder), "max_tokens": 32} | changes)
        return build_corpus(documents(FACTS), tmp_path / "again", settings)["version"]

    manifest = read_manifest(corpus)
    assert manifest["documents"] == len(TEXTS) and manifest["dense"]["encoder"] == str(encoder)
    assert version() == manifest["version"] == open_corpus(corpus).version
    other = tmp_path / "other"
    model = BertModel.from_pretrained(encoder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[-1] += 1
    model.save_pretrained(other)
    BertTokenizer.from_pretrained(encoder).save_pretrained(other)
    changed = [version(encoder=str(other)), version(max_tokens=16), version(index="SQ8")]
    assert len({manifest["version"], *changed}) == 4
    assert build_corpus(documents(FACTS), tmp_path / "words", None)["version"] not in changed


@pytest.mark.seconds
def test_over_http_the_same_is_found(corpus):
    with served(corpus) as (url, _):
        service = open_retriever(Service(url=url), None)
        assert service.search(QUERIES, 3) == open_corpus(corpus).search(QUERIES, 3)


def test_what_cannot_be_built_is_said(encoder, tmp_path, monkeypatch):
    def build(**changes) -> None:
        settings = Dense(**{"encoder": str(encoder)} | changes)
        build_corpus(documents(FACTS), tmp_path / "out", settings)

    with monkeypatch.context() as without, pytest.raises(UserError, match="pip install faiss-cpu"):
        without.setitem(sys.modules, "faiss", None)
        build()
    pytest.importorskip("faiss")
    with pytest.raises(UserError, match="no such model directory"):
        build(encoder=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"index: faiss makes no 'Nonsense'"):
        build(index="Nonsense")
    with pytest.raises(UserError, match=r"240 documents are too few for 'IVF4096,Flat'"):
        build(index="IVF4096,Flat")
    assert not list(tmp_path.iterdir())
