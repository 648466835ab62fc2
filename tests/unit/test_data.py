"""Preparation: splits, drops, files, and what a person reads when it fails."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import read_json, sha256
from criticflow.stages.data import SPLITS, prepare
from criticflow.tasks import get_task
from real_data import files, needs_real_data


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def question(n: int, **more: Any) -> dict[str, Any]:
    return {"question": f"What is {n} + 1?", "answer": f"Add.\n#### {n + 1}", **more}


def gsm8k(source: config.Source, **split: Any) -> config.Task:
    return config.Task(kind="gsm8k", source=source, split=config.Split(**split))


def load(out: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(out / f"{split}.parquet").to_pylist()


def keys(out: Path, split: str) -> list[str]:
    return [row["extra_info"]["key"] for row in load(out, split)]


@pytest.fixture
def source(tmp_path: Path) -> config.Source:
    train = [
        *map(question, range(50)),
        question(3),
        {"question": "what is  4 + 1? ", "answer": "#### 5"},
        question(1001),
        {"question": "?", "answer": "#### "},
        {"question": "?", "answer": 5},
    ]
    test = [*map(question, range(1000, 1020)), question(1000)]
    return config.Source(
        files={
            "train": write(tmp_path / "train.jsonl", train),
            "test": write(tmp_path / "test.jsonl", test),
        }
    )


def test_rows_are_dropped_and_counted_by_reason(source, tmp_path, capsys):
    manifest = prepare("sums", gsm8k(source, val=10), tmp_path / "out")
    assert manifest == read_json(tmp_path / "out" / "manifest.json")
    train, val, test = (manifest["splits"][split] for split in SPLITS)
    assert train["dropped"] == {
        "also in test": 1,
        "duplicate": 2,
        "empty answer": 1,
        "malformed": 1,
    }
    assert (train["read"], train["rows"], train["moved_to_other_splits"]) == (55, 40, 10)
    assert (val["read"], val["rows"], val["dropped"]) == (0, 10, {})
    assert (test["read"], test["rows"], test["dropped"]) == (21, 20, {"duplicate": 1})
    for split in SPLITS:
        assert manifest["splits"][split]["sha256"] == sha256(tmp_path / "out" / f"{split}.parquet")
    assert manifest["source"]["sha256"]["train"] == sha256(source.files["train"])
    assert (
        "sums train: 40 rows (55 read; dropped: 1 also in test, 2 duplicate"
        in capsys.readouterr().out
    )


def test_splits_are_disjoint_by_problem(source, tmp_path):
    prepare("sums", gsm8k(source, val=10), tmp_path)
    found = [key for split in SPLITS for key in keys(tmp_path, split)]
    assert len(set(found)) == len(found) == 70


def test_the_files_have_verls_columns(source, tmp_path):
    prepare("sums", gsm8k(source, val=10), tmp_path)
    task = get_task("gsm8k")
    for split in SPLITS:
        for index, row in enumerate(load(tmp_path, split)):
            assert list(row) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
            assert row["data_source"] == "gsm8k"
            assert [message["role"] for message in row["prompt"]] == ["user"]
            assert row["prompt"][0]["content"].startswith("What is ")
            assert row["reward_model"]["style"] == "rule"
            assert row["extra_info"]["split"] == split
            assert row["extra_info"]["index"] == index
            ground_truth = row["reward_model"]["ground_truth"]
            assert task.score(row["extra_info"]["solution"], ground_truth).score == 1.0


def test_equal_inputs_give_equal_bytes_and_another_seed_another_split(source, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare("sums", gsm8k(source, val=10, seed=seed), tmp_path / name)
    for file in ("train.parquet", "val.parquet", "test.parquet", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert set(keys(tmp_path / "a", "val")) != set(keys(tmp_path / "c", "val"))


def test_the_order_of_the_source_does_not_decide_the_splits(source, tmp_path):
    lines = Path(source.files["train"]).read_text(encoding="utf-8").splitlines(keepends=True)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(lines)), encoding="utf-8")
    other = config.Source(files={**source.files, "train": str(turned)})
    for name, origin in (("a", source), ("b", other)):
        prepare("sums", gsm8k(origin, val=10, train=20), tmp_path / name)
    for split in SPLITS:
        assert keys(tmp_path / "a", split) == keys(tmp_path / "b", split)


def test_a_smaller_split_is_a_part_of_the_larger_one(source, tmp_path):
    small = prepare("sums", gsm8k(source, val=10, train=15, test=5), tmp_path / "small")
    prepare("sums", gsm8k(source, val=10), tmp_path / "whole")
    assert small["splits"]["train"]["unused"] == 25
    assert small["splits"]["test"]["unused"] == 15
    assert keys(tmp_path / "small", "train") == keys(tmp_path / "whole", "train")[:15]
    assert keys(tmp_path / "small", "test") == keys(tmp_path / "whole", "test")[:5]


def test_a_val_split_of_the_source_is_used(source, tmp_path):
    val = write(tmp_path / "val.jsonl", [question(n) for n in (0, 1000, 2000)])
    manifest = prepare(
        "sums", gsm8k(config.Source(files={**source.files, "val": val})), tmp_path / "out"
    )
    assert manifest["splits"]["val"]["dropped"] == {"also in test": 1}
    assert manifest["splits"]["val"]["rows"] == 2
    assert manifest["splits"]["train"]["dropped"]["also in val"] == 1


def test_the_test_split_may_come_from_elsewhere(source, tmp_path):
    other = config.Source(files={"test": write(tmp_path / "o.jsonl", map(question, (7, 5000)))})
    task = gsm8k(source, val=10).model_copy(update={"test_source": other})
    manifest = prepare("sums", task, tmp_path / "out")
    assert manifest["splits"]["test"]["rows"] == 2
    assert manifest["splits"]["train"]["dropped"]["also in test"] == 1


def test_all_splits_are_cut_out_of_what_is_generated(tmp_path):
    task = config.Task(
        kind="countdown",
        source=config.Source(generate=config.Generate(problems=300)),
        split=config.Split(val=20, test=30),
        prompt="{numbers} = {target}",
    )
    manifest = prepare("mini", task, tmp_path)
    assert [manifest["splits"][split]["rows"] for split in SPLITS] == [250, 20, 30]
    for split in SPLITS:
        for row in load(tmp_path, split):
            truth = json.loads(row["reward_model"]["ground_truth"])
            numbers = " ".join(map(str, truth["numbers"]))
            assert row["prompt"] == [{"role": "user", "content": f"{numbers} = {truth['target']}"}]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_csv_and_parquet_give_what_jsonl_gives(suffix, tmp_path):
    rows = [{"nums": [a, b], "target": a + b} for a in range(1, 9) for b in range(a, 9)]
    rows.append({"nums": [1, 1], "target": 77})
    write(tmp_path / "rows.jsonl", rows)
    other = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        with open(other, "w", newline="") as stream:
            writer = csv.DictWriter(stream, ["nums", "target"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), other)
    manifests = []
    for path in (tmp_path / "rows.jsonl", other):
        task = config.Task(
            kind="countdown",
            source=config.Source(files={"train": str(path)}),
            split=config.Split(val=5, test=5),
        )
        manifests.append(prepare("pairs", task, tmp_path / path.suffix)["splits"])
    assert manifests[0] == manifests[1]
    assert manifests[0]["train"]["dropped"] == {"unsolvable": 1}


@pytest.mark.parametrize("stream", [True, False])
def test_a_data_set_is_read_through_the_datasets_library(stream, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub = tmp_path / "hub"
    hub.mkdir()
    for split, numbers in (
        ("train", range(40)),
        ("validation", range(50, 55)),
        ("test", range(60, 70)),
    ):
        write(hub / f"{split}.jsonl", [question(n) for n in numbers])
    manifest = prepare("sums", gsm8k(config.Source(hub=str(hub), stream=stream)), tmp_path / "out")
    assert [manifest["splits"][split]["rows"] for split in SPLITS] == [40, 5, 10]


def test_without_the_hub_the_error_is_one_readable_line(tmp_path):
    code = (
        "from criticflow import config, errors\nfrom criticflow.stages import data\n"
        "source = config.Source(hub='openai/no-such-data', name='main')\n"
        "task = config.Task(kind='gsm8k', source=source)\n"
        f"errors.run_program(lambda: data.prepare('g', task, {str(tmp_path / 'out')!r}))"
    )
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: source.hub: cannot read 'openai/no-such-data' from the Hugging")
    assert "source.files" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("{broken\n", "line 1: not valid JSON"),
        ("[1]\n", "line 1: expected a JSON object"),
        ("", "too few problems for train"),
        ('{"question": "?", "answer": "#### "}\n', "dropped: 1 empty answer"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(content, says, source, tmp_path):
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    task = gsm8k(config.Source(files={**source.files, "train": str(path)}))
    with pytest.raises(UserError) as caught:
        prepare("sums", task, tmp_path / "out")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_split_that_cannot_be_filled_is_an_error(source, tmp_path):
    with pytest.raises(UserError, match=r"too few problems for train .* 50 moved"):
        prepare("sums", gsm8k(source, val=500), tmp_path)


def test_a_source_without_test_needs_a_size(source, tmp_path):
    task = gsm8k(config.Source(files={"train": source.files["train"]}))
    with pytest.raises(UserError, match=r"split\.test: the source has no test split"):
        prepare("sums", task, tmp_path)


def test_an_unknown_format_is_an_error(source, tmp_path):
    task = gsm8k(config.Source(files={**source.files, "test": "rows.xlsx"}))
    with pytest.raises(UserError, match=r"expected a \.jsonl, \.parquet or \.csv file"):
        prepare("sums", task, tmp_path)


@needs_real_data
def test_blemishes_of_the_real_data_are_dropped_and_counted(tmp_path):
    def of(kind: str, train: str, test: str) -> dict[str, Any]:
        task = config.Task(kind=kind, source=config.Source(files=files(train, test)))
        return prepare(kind, task, tmp_path / kind)["splits"]

    countdown = of("countdown", "countdown/train.jsonl", "countdown/test.jsonl")
    assert countdown["train"]["dropped"] == {"also in test": 5, "duplicate": 22}
    assert [countdown[split]["rows"] for split in SPLITS] == [10085, 128, 1024]
    gsm = of("gsm8k", "gsm8k/train.jsonl", "gsm8k/test.jsonl")
    assert [gsm[split]["rows"] for split in SPLITS] == [7345, 128, 1319]
    math = of("math", "math/train.jsonl", "math/math500.jsonl")
    assert math["train"]["dropped"] == {"duplicate": 1, "empty answer": 4, "unknown level": 2}
    assert [math[split]["rows"] for split in SPLITS] == [7365, 128, 500]
