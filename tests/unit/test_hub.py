"""A model's name on the hub stands for one commit; without a network the local cache answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from criticflow.config import load_config
from criticflow.errors import UserError
from criticflow.models import hub

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with two commits of one model, as huggingface_hub lays it out, and no network."""
    model = tmp_path / "models--owner--model"
    for commit in (OLD, NEW):
        folder = model / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"architectures": ["X"]}))
        (folder / "model.safetensors").write_bytes(commit.encode())
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(NEW)
    (model / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return model


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD)]
)
def test_a_name_stands_for_a_commit_and_its_files(cache, revision, commit):
    assert hub.commit("owner/model", revision) == commit
    assert hub.local_copy("owner/model", revision) == str(cache / "snapshots" / commit)


def test_the_commit_of_a_data_set(cache):
    data = cache.with_name("datasets--owner--problems")
    cache.rename(data)
    assert hub.data_commit("owner/problems") == NEW
    assert hub.data_commit("owner/problems", "v1") == OLD
    assert hub.data_commit("owner/others") is None


def test_a_directory_is_itself(tmp_path):
    assert hub.commit(str(tmp_path)) is None
    assert hub.local_copy(str(tmp_path)) == str(tmp_path)
    assert hub.local_copy("results/models/tiny") == "results/models/tiny"  # not yet made


def test_what_nobody_has_is_an_error_in_one_line(cache):
    with pytest.raises(UserError, match="owner/other: neither the Hugging Face hub nor"):
        hub.commit("owner/other")
    with pytest.raises(UserError, match="owner/model at revision v2: neither"):
        hub.commit("owner/model", "v2")


def test_a_model_that_is_made_here_has_no_revision():
    raw = {
        "models": {"tiny": {"build": {"task": "c"}, "revision": "v1"}},
        "tasks": {"c": {"kind": "countdown", "source": {"generate": {}}, "split": {"test": 64}}},
        "runs": {},
    }
    with pytest.raises(UserError, match="revision belongs to a model on the hub"):
        load_config(raw)
