"""Rows of runs that were made on one machine become part of a study on another."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_study import configuration, write_study
from snake import PROJECT, planned, snakemake

from criticflow.errors import UserError
from criticflow.exchange.compare import compare_with_imports
from criticflow.exchange.export import export
from criticflow.exchange.origin import origin_here
from criticflow.exchange.take_in import take_in
from criticflow.files import write_json
from criticflow.planning.imports import read_imports, read_index
from criticflow.planning.study import read_study
from criticflow.training.deciding import deciding

FROZEN = {"from": "cold", "freeze": True}
RUNS = {
    "cold": {"model": "tiny", "task": "countdown-mini"},
    "constant": {"like": "cold", "critic": {"constant": 0.0, "freeze": True}},
    "constant-m50": {"like": "constant", "reward_mask": {"ratio": 0.5}},
    "warm-frozen": {"like": "cold", "critic": FROZEN},
    "warm-frozen-m50": {"like": "cold", "critic": FROZEN, "reward_mask": {"ratio": 0.5}},
}
OVERLAY: dict[str, Any] = {
    "runs": RUNS,
    "contrasts": [
        {"name": "under-mask", "a": "warm-frozen-m50", "b": "constant-m50", "kind": "primary"},
        {"name": "critic", "a": "warm-frozen", "b": "constant"},
        {"name": "learning", "a": "cold", "b": "constant"},
    ],
    "seeds": [0, 1, 2],
    "train": {"test_every": 10, "critic_warmup": 0},
    "evaluate": {"resamples": 50},
    "validation_threshold": 0.5,
    "truth": {"actors": []},
}
CONFIG = configuration(**OVERLAY)
TABLES = ("summary", "contrasts", "arms", "savings", "speed")
TABLE_RULES = ("summarise", "compare_arms", "compare_tempered", "critics_table", "report_page")
MADE = {*TABLE_RULES, "snakemake_report"}
COLD = "cold"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A study of three seeds that one machine made."""
    workdir = tmp_path_factory.mktemp("whole")
    write_study(workdir, CONFIG)
    for path in workdir.glob("results/eval/**/*.*"):
        path.touch()  # the fixture evaluates before it trains
    return workdir


def part(whole: Path, workdir: Path, seeds: set[int]) -> Path:
    """A working directory with the runs of some seeds, and what belongs to none."""
    for path in (whole / "results").rglob("*"):
        of_seed = {name for name in path.parts if name.startswith("seed") and name[4:].isdigit()}
        here = of_seed <= {f"seed{seed}" for seed in seeds}
        if path.is_file() and here and path.parent != whole / "results":
            place = workdir / path.relative_to(whole)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
    return workdir


def make(workdir: Path, *targets: str, rules: tuple[str, ...]) -> None:
    done = snakemake(
        workdir,
        *(*targets, "--cores", "1", "--quiet", "rules", "--allowed-rules", *rules),
        overlay=OVERLAY,
    )
    logs = [path.read_text() for path in workdir.glob("logs/*.log")]
    assert done.returncode == 0, done.stdout + done.stderr + "".join(logs)


def test_two_machines_say_bit_for_bit_what_one_says(whole, tmp_path):
    first = part(whole, tmp_path / "first", {0, 1})
    second = part(whole, tmp_path / "second", {2})
    said = export(first, CONFIG, tmp_path / "rows.zip")
    assert said[0].endswith("MB of rows") and "10 trainings" in said[0]
    assert said[1:] == [f"{run}, seed 2: left out, it is not trained" for run in CONFIG.runs]
    assert "10 trainings taken in" in take_in(tmp_path / "rows.zip", second, CONFIG)[0]
    for workdir in (whole, second):
        shutil.rmtree(workdir / "logs", ignore_errors=True)
        for table in TABLES:
            (workdir / f"results/{table}.json").unlink(missing_ok=True)
        targets = [f"results/{table}.json" for table in TABLES]
        make(workdir, *targets, rules=("summarise", "compare_arms"))
    for table in TABLES:
        one, two = ((folder / f"results/{table}.json").read_bytes() for folder in (whole, second))
        assert one == two, table


def test_a_training_takes_a_few_kilobytes(whole, tmp_path):
    export(whole, CONFIG, tmp_path / "rows.zip")
    assert (tmp_path / "rows.zip").stat().st_size < 25_000 * len(CONFIG.run_seeds())
    export(whole, CONFIG, tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "rows.zip") as archive:
        rows = {name for name in archive.namelist() if not name.startswith("export")}
        with zipfile.ZipFile(tmp_path / "again.zip") as again:
            assert all(archive.read(name) == again.read(name) for name in rows)


def test_what_was_imported_is_exported_again_as_it_came(whole, tmp_path):
    export(whole, CONFIG, tmp_path / "rows")
    take_in(tmp_path / "rows", tmp_path / "new", CONFIG)
    export(tmp_path / "new", CONFIG, tmp_path / "again")
    exports = (tmp_path / name / "export.json" for name in ("rows", "again"))
    one, two = (json.loads(path.read_text()) for path in exports)
    assert one["sha256"] == two["sha256"] and one["runs"] == two["runs"]


@pytest.fixture
def rows(whole, tmp_path) -> Path:
    """All rows of the study, as a folder."""
    export(whole, CONFIG, tmp_path / "rows")
    return tmp_path / "rows"


def test_a_study_of_imported_runs_makes_tables_and_the_report_alone(rows, tmp_path):
    workdir = tmp_path / "new"
    take_in(rows, workdir, CONFIG)
    assert set(planned(workdir, overlay=OVERLAY)) == MADE
    make(workdir, "results/report.html", rules=TABLE_RULES)
    page = (workdir / "results/report.html").read_text(encoding="utf-8")
    assert "Imported from rows (made " in page and f"{COLD}, seeds 0, 1, 2" in page
    assert "there are rows and no weights here" in page
    assert '<section id="responses">' not in page
    more = OVERLAY | {"seeds": [0, 1, 2, 3]}
    jobs = planned(workdir, overlay=more)
    assert jobs["train_run"] + jobs["train_run_warm"] == len(CONFIG.runs)
    assert jobs["compare_with_imports"] == 1  # neither model nor data were here


def test_a_run_whose_critic_is_needed_is_trained_here_unless_it_came_along(whole, tmp_path):
    cold = part(whole, tmp_path / "cold", {0, 1, 2})
    for run in CONFIG.runs:
        if run != COLD:
            shutil.rmtree(cold / "results/runs" / run)
    for critics, trained in ((False, 3), (True, 0)):
        workdir, out = tmp_path / f"new-{critics}", tmp_path / f"rows-{critics}.zip"
        export(cold, CONFIG, out, critics)
        take_in(out, workdir, CONFIG)
        done = snakemake(workdir, "--dry-run", "--quiet", overlay=OVERLAY)
        jobs = planned(workdir, overlay=OVERLAY)
        warm = sum(run.critic.from_run == COLD for run in CONFIG.runs.values()) * 3
        assert jobs["train_run_warm"] == warm
        assert jobs["train_run"] == 15 - 3 - warm + trained, done.stdout
        imports = read_imports(CONFIG, lambda run: deciding(CONFIG, run), workdir)
        assert len(imports.notes) == trained
        assert all("without the weights" in note for note in imports.notes)


def test_an_arm_whose_settings_change_is_trained_here(rows, tmp_path):
    take_in(rows, tmp_path / "new", CONFIG)
    runs = RUNS | {"constant-m50": {**RUNS["constant-m50"], "train": {"lam": 0.9}}}
    changed = configuration(**OVERLAY | {"runs": runs, "contrasts": []})
    imports = read_imports(changed, lambda run: deciding(changed, run), tmp_path / "new")
    lost = set(CONFIG.run_seeds()) - imports.files.keys()
    assert lost == {("constant-m50", seed) for seed in range(3)}
    assert "other settings than it has now" in imports.notes[0]
    with pytest.raises(UserError, match=r"evaluate\.n is 4 there and 5 here"):
        other = configuration(**OVERLAY | {"evaluate": {"n": 5}})
        read_imports(other, lambda run: deciding(other, run), tmp_path / "new")


def test_rows_of_a_version_that_knew_fewer_keys_count(rows, tmp_path):
    manifest = json.loads((rows / "export.json").read_text())
    for run in manifest["runs"].values():
        for entry in run.values():
            entry["settings"] = "the digest of other keys"
    write_json(rows / "export.json", manifest)
    take_in(rows, tmp_path / "new", CONFIG)
    imports = read_imports(CONFIG, lambda run: deciding(CONFIG, run), tmp_path / "new")
    assert imports.files.keys() == set(CONFIG.run_seeds()) and not imports.notes


def refusal(rows: Path, workdir: Path, **over: Any) -> str:
    """What an import is refused with; nothing is taken in."""
    config = configuration(**OVERLAY | over)
    before = read_index(workdir)
    with pytest.raises(UserError) as error:
        take_in(rows, workdir, config)
    assert read_index(workdir) == before
    return str(error.value)


def test_another_configuration_is_refused_by_name(rows, tmp_path):
    train = {"train": OVERLAY["train"] | {"actor_lr": 0.001}}
    assert "train.actor_lr: 0.0003 -> 0.001" in refusal(rows, tmp_path / "new", **train)
    evaluate = {"evaluate": {"n": 8}}
    assert "evaluate.n is 4 there and 8 here" in refusal(rows, tmp_path / "new", **evaluate)
    task = {"tasks": {"countdown-mini": {"max_response_length": 30}}}
    assert "max_response_length: 24 -> 30" in refusal(rows, tmp_path / "new", **task)


def test_other_runs_and_seeds_are_no_part_of_the_study(rows, tmp_path):
    config = configuration(**OVERLAY | {"seeds": [0, 5]})
    said = take_in(rows, tmp_path / "new", config)
    assert "5 trainings taken in" in said[0] and "10 are no part of this study" in said[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [("model/model.safetensors", "another base model"), ("data/train.parquet", "other data")],
)
def test_another_base_model_or_other_data_is_refused(whole, rows, tmp_path, name, words):
    workdir = part(whole, tmp_path / "own", {2})
    for path in workdir.glob("results/runs/**/provenance.json"):
        record = json.loads(path.read_text())
        record["inputs"][name] = "9" * 64
        write_json(path, record)
    said = refusal(rows, workdir)
    assert f"was trained from {words} than" in said and name in said


def test_what_lies_where_the_command_is_given_does_not_count(rows, tmp_path, monkeypatch):
    """Another study's model, in the checkout from which an import elsewhere is asked for."""
    model = tmp_path / "checkout/results/models/tiny"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"another")
    monkeypatch.chdir(tmp_path / "checkout")
    take_in(rows, tmp_path / "new", CONFIG)


def test_what_is_here_counts_before_anything_is_trained(whole, rows, tmp_path):
    model, data = tmp_path / "own/results/models/tiny", tmp_path / "own/results/data/countdown-mini"
    model.mkdir(parents=True)
    data.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"another")
    pd.DataFrame({"a": [1]}).to_parquet(data / "train.parquet")
    assert "another base model and other data than what is here" in refusal(rows, tmp_path / "own")
    record = next(rows.glob("results/runs/**/provenance.json"))
    folder = tmp_path / "imported" / record.parent.relative_to(rows)
    folder.mkdir(parents=True)
    shutil.copy(record, folder)
    out = tmp_path / "same.json"
    os.chdir(tmp_path)
    there = Path("imported") / record.relative_to(rows)
    with pytest.raises(
        UserError, match=r"results/runs/.* was imported, and was trained from anoth"
    ):
        compare_with_imports([there], str(model), None, data, False, out)
    assert not out.exists()
    written = json.loads(there.read_text())
    written["inputs"] = origin_here(str(model), None, data)
    write_json(there, written)
    compare_with_imports([there], str(model), None, data, False, out)
    assert set(json.loads(out.read_text())) == {"model/model.safetensors", "data/train.parquet"}


def test_a_run_that_is_here_with_other_rows_is_refused_and_with_the_same_is_kept(
    whole, rows, tmp_path
):
    workdir = part(whole, tmp_path / "own", {2})
    said = take_in(rows, workdir, CONFIG)
    assert "10 trainings taken in" in said[0] and said[1].startswith("5 are here already")
    assert take_in(rows, workdir, CONFIG)[1].startswith("15 are here already")
    for place in ("results", "imported/results"):
        seed = 2 if place == "results" else 0
        path = workdir / place / f"runs/{COLD}/seed{seed}/metrics.parquet"
        table = pd.read_parquet(path)
        table.assign(**{"timing_s/step": 1.0}).to_parquet(path)
        said = refusal(rows, workdir)
        assert f"{COLD}, seed {seed}, is here already with other rows" in said
        assert "metrics.parquet" in said
        table.to_parquet(path)
    take_in(rows, workdir, CONFIG)


def test_a_damaged_or_foreign_file_is_refused(whole, rows, tmp_path):
    path = rows / f"results/eval/runs/{COLD}/seed0/samples.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"is damaged: {path.relative_to(rows)}" in refusal(rows, tmp_path / "new")
    (tmp_path / "text.zip").write_text("no archive")
    assert "neither a folder nor a zip" in refusal(tmp_path / "text.zip", tmp_path / "new")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../outside", "x")
    assert "outside of its own folder" in refusal(tmp_path / "out.zip", tmp_path / "new")
    shutil.copytree(rows, tmp_path / "foreign")
    manifest = json.loads((rows / "export.json").read_text())
    manifest["runs"][COLD]["0"]["files"].append("results/../../outside")
    write_json(tmp_path / "foreign/export.json", manifest)
    assert "names a file results/../../outside" in refusal(tmp_path / "foreign", tmp_path / "new")
    (tmp_path / "empty").mkdir()
    assert "export.json is missing" in refusal(tmp_path / "empty", tmp_path / "new")
    with pytest.raises(UserError, match="is there, and is no export"):
        export(whole, CONFIG, tmp_path / "empty")


def test_nothing_is_imported_while_a_snakemake_is_at_work(rows, tmp_path):
    (tmp_path / "new/.snakemake").mkdir(parents=True)
    with open(tmp_path / "new/.snakemake/criticflow.flock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert "a Snakemake is at work in" in refusal(rows, tmp_path / "new")
    take_in(rows, tmp_path / "new", CONFIG)


def test_unfinished_and_outdated_runs_are_left_out(whole, tmp_path):
    workdir = part(whole, tmp_path / "own", {0, 1, 2})
    (workdir / f"results/eval/runs/{COLD}/seed0/summary.json").unlink()
    (workdir / f"results/runs/{COLD}/seed1/metrics.parquet").touch()
    path = workdir / f"results/runs/{COLD}/seed2/provenance.json"
    record = json.loads(path.read_text())
    record["settings"]["settings"]["train"]["actor_lr"] = 1.0
    write_json(path, record)
    said = export(workdir, CONFIG, tmp_path / "rows")
    assert said[1:] == [
        f"{COLD}, seed 0: left out, it is not evaluated",
        f"{COLD}, seed 1: left out, it was trained again after it was evaluated",
        f"{COLD}, seed 2: left out, it was trained with other settings "
        "(run train.actor_lr: 1 -> 0.0003)",
    ]


@pytest.mark.parametrize("name", ["critic-value", "frozen-critic"])
def test_the_rows_that_come_with_the_project_still_fit_their_study(name, tmp_path):
    """A setting that came later and is off makes no other run of what was trained before it."""
    folder = PROJECT / "docs/studies" / name
    study = read_study([PROJECT / f"config/studies/{name}.yaml", folder / "study.yaml"])
    said = take_in(folder / "rows.zip", tmp_path, study)[0]
    assert said.endswith(f"{len(study.run_seeds())} trainings taken in")
    imports = read_imports(study, partial(deciding, study), tmp_path)
    assert set(imports.files) == set(study.run_seeds()) and not imports.notes
