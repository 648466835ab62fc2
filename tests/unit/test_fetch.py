"""``criticflow fetch`` without a network: what the cache has is named with its commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from criticflow.commands import fetch
from criticflow.config import Source, load_config
from criticflow.errors import UserError
from criticflow.files import read_json
from criticflow.models.hub import commit, local_copy

COMMIT = "1" * 40
STUDY = {
    "models": {"tiny": None, "named": {"path": "owner/model"}, "unused": {"path": "owner/other"}},
    "tasks": {"countdown-mini": None, "gsm8k": {"kind": "gsm8k", "source": {}}},
    "runs": {
        "cold": {"model": "named", "task": "gsm8k"},
        "constant": None,
        "warm-frozen": None,
        "constant-m50": None,
        "warm-frozen-m50": None,
    },
    "contrasts": [],
}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with one model, as huggingface_hub lays it out, and no network."""
    model = tmp_path / "hub" / "models--owner--model"
    folder = model / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def study(tmp_path: Path, source: dict) -> Path:
    path = tmp_path / "study.yaml"
    raw = STUDY | {"tasks": STUDY["tasks"] | {"gsm8k": {"kind": "gsm8k", "source": source}}}
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def test_a_model_and_its_commit_are_recorded_and_found_again(cache, tmp_path, capsys):
    path = study(tmp_path, {"files": {"train": "train.jsonl", "test": "test.jsonl"}})
    fetch.main(["--configfile", str(path), "--directory", str(tmp_path)])
    told = {"name": "owner/model", "revision": None, "commit": COMMIT, "folder": str(cache)}
    assert read_json(tmp_path / fetch.RECORD) == {"models": [told], "data": []}
    assert f"model owner/model: commit {COMMIT}" in capsys.readouterr().out
    # What a training records and loads (training.job), without a network.
    assert commit("owner/model") == COMMIT
    assert local_copy("owner/model", COMMIT) == str(cache)


def test_an_encoder_is_fetched_as_models_are(cache, tmp_path):
    search = {"corpus": "documents.jsonl", "dense": {"encoder": "owner/model"}}
    source = {"files": {"train": "train.jsonl", "test": "test.jsonl"}}
    config = {
        "models": {"here": {"path": str(tmp_path)}},
        "tasks": {"asked": {"kind": "search", "source": source, "search": search}},
        "runs": {"ppo": {"model": "here", "task": "asked"}},
        "truth": {"actors": []},
    }
    (encoder,) = fetch.fetch_models(load_config(config))
    assert (encoder["name"], encoder["folder"]) == ("owner/model", str(cache))


def test_data_that_nobody_has_is_an_error_in_one_line(cache, tmp_path):
    path = study(tmp_path, {"hub": "owner/no-such-problems"})
    with pytest.raises(UserError, match="cannot read 'owner/no-such-problems'"):
        fetch.main(["--configfile", str(path), "--directory", str(tmp_path)])
    assert not (tmp_path / fetch.RECORD).exists()


def test_data_is_read_into_the_cache(cache, tmp_path, capsys):
    folder = tmp_path / "problems"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    path = study(tmp_path, {"hub": str(folder)})
    fetch.main(["--configfile", str(path), "--directory", str(tmp_path)])
    (data,) = read_json(tmp_path / fetch.RECORD)["data"]
    assert (data["hub"], data["splits"], data["commit"]) == (str(folder), ["train", "test"], None)
    assert "train, test, in the cache" in capsys.readouterr().out


def test_a_study_that_names_nothing_needs_nothing(tmp_path, capsys):
    fetch.main(["--directory", str(tmp_path)])
    assert "nothing to fetch" in capsys.readouterr().out
    assert not (tmp_path / fetch.RECORD).exists()


def test_one_source_for_two_splits_is_read_once(tmp_path):
    raw = {"hub": "owner/data", "name": "main"}
    sources = [Source(**raw), Source(**raw), Source(files={"test": "x.jsonl"})]
    assert fetch._each_once(sources) == [Source(**raw)]
