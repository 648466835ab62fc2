"""``criticflow study import``: rows that another working directory gave become part of this one."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from criticflow.config import Config
from criticflow.errors import UserError
from criticflow.exchange import archive, rows
from criticflow.exchange.export import FORMAT, counted, digest_of_file
from criticflow.exchange.origin import (
    Origin,
    different,
    environment,
    origin_here,
    recorded_origin,
    recorded_settings,
)
from criticflow.files import read_json, replacing, sha256, write_json
from criticflow.planning.imports import (
    FOLDER,
    INDEX,
    check_measured,
    digest,
    measured,
    read_index,
)
from criticflow.training import provenance
from criticflow.training.deciding import deciding
from criticflow.training.identity import brief, differences

Pair = tuple[str, str]
"""Base model and task."""


def take_in(source: Path, directory: Path, config: Config) -> list[str]:
    """Take the runs of an export into a study, all that it has or none.

    Args:
        source: what :func:`criticflow.exchange.export.export` wrote.
        directory: working directory of the study.

    Returns:
        What was taken in and what was not, in lines.

    Raises:
        UserError: the export is damaged or of another version; a run has other settings than this
            study, another base model or other data; a run is here already, with other rows; or a
            Snakemake is at work.
    """
    with at_rest(directory), archive.opened(source) as tree:
        manifest = read_manifest(source, tree)
        check_measured(manifest["measured"], measured(config))
        runs, left = _wanted(manifest["runs"], config)
        records = {
            one: read_json(tree / f"results/runs/{one[0]}/seed{one[1]}" / provenance.NAME)
            for one in runs
        }
        wrong = _other_settings(records, config) + _other_critics(manifest["critics"], config)
        index = read_index(directory)
        origins, verified = _expected(directory, config, index)
        wrong += _other_origins(records, config, origins)
        wrong += _other_tests(directory, manifest["tests"], config, index)
        new, known, clashes = _presence(tree, directory, config, index, manifest["runs"], runs)
        wrong += clashes
        if wrong:
            raise UserError(f"{source} does not fit this study: {brief(wrong, 6)}")
        _place(source, tree, directory, config, index, manifest, new, verified)
    said = [f"{source}: {counted(len(new))} taken in"]
    said += [f"{len(known)} are here already, with the same rows"] if known else []
    said += [f"{len(left)} are no part of this study: {brief(left)}"] if left else []
    return said


def read_manifest(source: Path, tree: Path) -> dict[str, Any]:
    """What an export holds, after a look at every file of it.

    Raises:
        UserError: it is damaged, or no export of this version.
    """
    if not (tree / archive.MANIFEST).is_file():
        raise UserError(f"{source} is no export of a study: {archive.MANIFEST} is missing")
    manifest = read_json(tree / archive.MANIFEST)
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{source} is an export of format {manifest.get('format')}, and this version of "
            f"criticflow reads format {FORMAT}: use the version that wrote it"
        )
    entries = [
        entry
        for kind in ("runs", "bases", "critics")
        for parts in manifest[kind].values()
        for entry in parts.values()
    ]
    named = {path for entry in entries for path in entry["files"]} | set(manifest["sha256"])
    for path in sorted(named):
        parts = PurePosixPath(path).parts
        if parts[:1] != ("results",) or ".." in parts or path not in manifest["sha256"]:
            raise UserError(f"{source} is no export of a study: it names a file {path}")
    for path, known in manifest["sha256"].items():
        if not (tree / path).is_file() or sha256(tree / path) != known:
            raise UserError(f"{source} is damaged: {path} is not what was exported; copy it again")
    return manifest


@contextmanager
def at_rest(directory: Path) -> Iterator[None]:
    """Keep every Snakemake out of a working directory: its jobs read the workflow again.

    Raises:
        UserError: one is at work.
    """
    state = directory / ".snakemake"
    state.mkdir(parents=True, exist_ok=True)
    with open(state / "criticflow.flock", "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"a Snakemake is at work in {directory.resolve()}: stop it (Ctrl-C), import, and "
                "start it again; it goes on where it stopped"
            ) from None
        yield


def _wanted(
    runs: Mapping[str, Mapping[str, Any]], config: Config
) -> tuple[list[tuple[str, int]], list[str]]:
    """Runs and seeds that the study has, and names of the others."""
    given = [(run, int(seed)) for run, seeds in runs.items() for seed in seeds]
    study = set(config.run_seeds())
    return (
        [one for one in given if one in study],
        [f"{run}, seed {seed}" for run, seed in given if (run, seed) not in study],
    )


def _other_settings(records: Mapping[tuple[str, int], dict], config: Config) -> list[str]:
    here, wrong = environment(), []
    for (run, seed), record in records.items():
        other = differences(recorded_settings(record), deciding(config, run))
        other += differences(record["environment"], here, ("environment",))
        if other:
            wrong.append(f"{run}, seed {seed}, has other settings ({brief(other)})")
    return wrong


def _other_critics(critics: Mapping[str, Mapping[str, Any]], config: Config) -> list[str]:
    return [
        f"the pretrained critic {name} has other settings"
        for name, seeds in critics.items()
        if name in config.critics
        for entry in list(seeds.values())[:1]
        if entry["settings"] != digest(config.critics[name].model_dump(mode="json"))
    ]


def _expected(
    directory: Path, config: Config, index: Mapping[str, Any]
) -> tuple[dict[Pair, list[tuple[str, Origin]]], list[Pair]]:
    """Base model and data of every pair, from all that is known here, and pairs that are here."""
    known: dict[Pair, list[tuple[str, Origin]]] = {}
    verified = []
    for run, settings in config.runs.items():
        pair = (settings.model, settings.task)
        if pair not in known:
            model = config.models[settings.model]
            path = model.path or str(directory / f"results/models/{settings.model}")
            if model.path and (directory / model.path).is_dir():
                path = str(directory / model.path)
            # Problems that a probe chose lie elsewhere.
            data = directory / (
                f"results/filtered/{settings.model}/{settings.task}"
                if config.probe.filter
                else f"results/data/{settings.task}"
            )
            known[pair] = []
            if here := origin_here(path, model.revision, data):
                known[pair].append(("what is here", here))
                if any(key.startswith("model") for key in here) and any(
                    key.startswith("data/") for key in here
                ):
                    verified.append(pair)
        for seed in config.seeds_of(run):
            for where in (directory, directory / FOLDER):
                record = where / f"results/runs/{run}/seed{seed}" / provenance.NAME
                if record.is_file() and not differences(
                    recorded_settings(read_json(record)), deciding(config, run)
                ):
                    _add(known[pair], f"{run}, seed {seed}", recorded_origin(read_json(record)))
    return known, verified


def _other_origins(
    records: Mapping[tuple[str, int], dict],
    config: Config,
    known: dict[Pair, list[tuple[str, Origin]]],
) -> list[str]:
    wrong = []
    for (run, seed), record in records.items():
        pair, origin = (config.runs[run].model, config.runs[run].task), recorded_origin(record)
        for where, other in known[pair]:
            if found := different(origin, other):
                what = {"data": "other data", "model": "another base model"}
                kinds = dict.fromkeys(what[name[:5].rstrip("/")] for name in found)
                wrong.append(
                    f"{run}, seed {seed}, was trained from {' and '.join(kinds)} than {where} "
                    f"({brief(found)})"
                )
                break
        _add(known[pair], f"{run}, seed {seed}", origin)
    return wrong


def _add(known: list[tuple[str, Origin]], name: str, origin: Origin) -> None:
    """Remember an origin, each once."""
    if all(origin != other for _, other in known):
        known.append((name, origin))


def _other_tests(
    directory: Path, tests: Mapping[str, str], config: Config, index: dict[str, Any]
) -> list[str]:
    wrong = []
    for task, theirs in tests.items():
        path = directory / f"results/data/{task}/test.parquet"
        ours = digest_of_file(path) if path.is_file() else None
        ours = ours or index.get("tests", {}).get(task)
        if task in config.tasks and ours not in (None, theirs):
            wrong.append(f"its runs were evaluated on other problems of {task} (test.parquet)")
    return wrong


def _presence(
    tree: Path,
    directory: Path,
    config: Config,
    index: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    runs: list[tuple[str, int]],
) -> tuple[list[tuple[str, int]], list[str], list[str]]:
    """Runs that are not here yet, those that are, and what is here with other rows."""
    new, known, clashes = [], [], []
    for run, seed in runs:
        name, files = f"{run}, seed {seed}", entries[run][str(seed)]["files"]
        with tempfile.TemporaryDirectory(prefix="criticflow-own-") as scratch:
            own = Path(scratch)
            if _is_own(directory, config, run, seed):
                rows.of_run(directory, config, run, seed, own, True, True)
                place, remove = own, f"results/runs/{run}/seed{seed}"
            else:
                place, remove = directory / FOLDER, f"{FOLDER}/results/runs/{run}/seed{seed}"
                if str(seed) not in index["runs"].get(run, {}):
                    new.append((run, seed))
                    continue
            both = [path for path in files if (place / path).is_file()]
            other = [path for path in both if not _equal(tree / path, place / path)]
            if other:
                clashes.append(
                    f"{name}, is here already with other rows ({brief(other, 2)}): remove {remove} "
                    "if those of the export are to count"
                )
            elif place == own or len(both) == len(files):
                known.append(name)
            else:
                new.append((run, seed))  # it brings more than it did before
    return new, known, clashes


def _is_own(directory: Path, config: Config, run: str, seed: int) -> bool:
    """Whether a run was trained here, with the settings of the study."""
    folder = directory / f"results/runs/{run}/seed{seed}"
    record = folder / provenance.NAME
    return (
        record.is_file()
        and (folder / "metrics.parquet").is_file()
        and not differences(recorded_settings(read_json(record)), deciding(config, run))
    )


def _equal(one: Path, other: Path) -> bool:
    return sha256(one) == sha256(other) or digest_of_file(one) == digest_of_file(other)


def _place(
    source: Path,
    tree: Path,
    directory: Path,
    config: Config,
    index: dict[str, Any],
    manifest: Mapping[str, Any],
    new: list[tuple[str, int]],
    verified: list[Pair],
) -> None:
    """Copy files, then say so in the index: what is not in the index does not count."""
    number = len(index["exports"])
    runs, critics, bases = ({**index[key]} for key in ("runs", "critics", "bases"))
    taken = []
    for run, seed in new:
        entry = manifest["runs"][run][str(seed)]
        # Equal by now to those of the study; the exporter may have known fewer keys.
        settings = digest(deciding(config, run))
        origin = {"settings": settings, "export": number}
        runs[run] = runs.get(run, {}) | {str(seed): entry | origin}
        taken += entry["files"]
    for name, seeds in manifest["critics"].items():
        for seed, entry in seeds.items():
            if name in config.critics and seed not in critics.get(name, {}):
                critics[name] = critics.get(name, {}) | {seed: entry | {"export": number}}
                taken += entry["files"]
    for model, tasks in manifest["bases"].items():
        for task, entry in tasks.items():
            if task not in bases.get(model, {}):
                bases[model] = bases.get(model, {}) | {task: entry | {"export": number}}
                taken += entry["files"]
    if not taken:
        return
    for path in taken:
        with replacing(directory / FOLDER / path) as partial:
            shutil.copyfile(tree / path, partial)
    before = {
        (config.runs[run].model, config.runs[run].task)
        for run in index["runs"]
        if run in config.runs
    }
    about = {key: manifest[key] for key in ("made", "host", "git")}
    write_json(
        directory / INDEX,
        {
            "exports": [*index["exports"], {"file": source.name} | about],
            "measured": manifest["measured"],
            "tests": manifest["tests"] | index.get("tests", {}),
            "runs": runs,
            "bases": bases,
            "critics": critics,
            # Once: an input that comes and goes would make its rule run again.
            "verified": index["verified"] + [list(pair) for pair in verified if pair not in before],
        },
    )
