"""What several unit tests need."""

from __future__ import annotations

from pathlib import Path

import pytest

from criticflow.retrieval.bm25 import build_corpus
from criticflow.tasks._facts import documents


@pytest.fixture(scope="module")
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the documents of the test module's ``FACTS``."""
    out = tmp_path_factory.mktemp("corpora") / "facts"
    build_corpus(documents(request.module.FACTS), out)
    return out


@pytest.fixture
def critic(tmp_path) -> Path:
    """A tiny critic's directory, tokenizer included."""
    from checkpoint_writers import tiny_critic, tiny_tokenizer  # not where no test needs torch

    folder = tmp_path / "critic"
    tiny_critic().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
