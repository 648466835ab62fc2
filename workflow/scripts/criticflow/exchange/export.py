"""``criticflow study export``: the raw rows of finished runs, to be taken in elsewhere."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from criticflow.config import Config
from criticflow.errors import UserError
from criticflow.exchange import archive, rows
from criticflow.exchange.origin import recorded_settings
from criticflow.files import read_json, sha256, write_json
from criticflow.planning.imports import (
    FOLDER,
    Imports,
    critic_seeds,
    digest,
    measured,
    read_imports,
    read_index,
)
from criticflow.training import provenance
from criticflow.training.deciding import deciding
from criticflow.training.identity import content, differences

FORMAT = 1


def export(directory: Path, config: Config, out: Path, critics: bool = False) -> list[str]:
    """Write the rows of every finished run, and of what belongs to them.

    A run is finished when it is trained and evaluated. Runs that were imported go along as they
    came. Nothing is locked: a Snakemake may be at work.

    Args:
        directory: working directory of the study.
        out: a folder, or a ``.zip`` file.
        critics: also the critics that runs of the study start from, and the responses of the value
            viewer.

    Returns:
        What was exported and what was not, in lines.

    Raises:
        UserError: no run is finished.
    """
    imported = read_imports(config, lambda run: deciding(config, run), directory)
    missing: list[str] = []
    started = {run.critic.from_run for run in config.runs.values()} if critics else set()
    with tempfile.TemporaryDirectory(prefix="criticflow-export-") as scratch:
        tree = Path(scratch) / "rows"
        tree.mkdir()
        runs: dict[str, dict[str, Any]] = {}
        for run, seed in config.run_seeds():
            if imported.has(run, seed):
                files = _carry(directory, imported.files[run, seed], tree)
            elif why := unfinished(directory, config, run, seed):
                missing.append(f"{run}, seed {seed}: left out, {why}")
                continue
            else:
                before = set(archive.files_of(tree))
                rows.of_run(directory, config, run, seed, tree, critics, run in started)
                files = sorted(set(archive.files_of(tree)) - before)
                if not set(required(run, seed)) <= set(files):
                    missing.append(f"{run}, seed {seed}: left out, it is just being made again")
                    continue
            entry = {"settings": digest(deciding(config, run)), "files": files}
            runs.setdefault(run, {})[str(seed)] = entry
        if not runs:
            raise UserError(
                f"{directory}: no run of this study is trained and evaluated"
                + (f" ({missing[0]})" if missing else "")
            )
        pretrained = _critics(directory, config, imported, tree)
        bases = _bases(directory, config, imported, runs, tree)
        manifest = {
            "format": FORMAT,
            "made": provenance.now(),
            "host": socket.gethostname(),
            "git": provenance.git_state(),
            "measured": measured(config),
            "tests": read_index(directory).get("tests", {})
            | _tests(directory, {config.runs[run].task for run in runs}),
            "runs": runs,
            "bases": bases,
            "critics": pretrained,
            "sha256": {path: sha256(tree / path) for path in archive.files_of(tree)},
        }
        write_json(tree / archive.MANIFEST, manifest)
        size = sum((tree / path).stat().st_size for path in manifest["sha256"])
        archive.write(tree, out)
    said = f"{out}: {counted(sum(map(len, runs.values())))}, {size / 1e6:.2f} MB of rows"
    return [said, *missing]


def counted(trainings: int) -> str:
    """``1 training``, ``2 trainings``."""
    return f"{trainings} training{'' if trainings == 1 else 's'}"


def required(run: str, seed: int) -> list[str]:
    """Files without which a run has no rows: record and metrics, then those of its evaluation."""
    trained, evaluated = f"results/runs/{run}/seed{seed}", f"results/eval/runs/{run}/seed{seed}"
    return [
        f"{trained}/{provenance.NAME}",
        f"{trained}/metrics.parquet",
        f"{evaluated}/summary.json",
        f"{evaluated}/samples.parquet",
    ]


def unfinished(directory: Path, config: Config, run: str, seed: int) -> str | None:
    """Why a run has no rows to give; None: it has."""
    record, metrics = (directory / path for path in required(run, seed)[:2])
    if not record.is_file() or not metrics.is_file():
        return "it is not trained"
    now = deciding(config, run)
    if other := differences(recorded_settings(read_json(record)), now):
        return f"it was trained with other settings ({other[0]})"
    files = [directory / path for path in required(run, seed)[2:]]
    if not all(path.is_file() for path in files):
        return "it is not evaluated"
    if min(path.stat().st_mtime for path in files) < metrics.stat().st_mtime:
        return "it was trained again after it was evaluated"
    return None


def _carry(directory: Path, files: Iterable[str], tree: Path) -> list[str]:
    """Copy what was imported, as it came."""
    for path in files:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / FOLDER / path, tree / path)
    return sorted(files)


def _critics(
    directory: Path, config: Config, imported: Imports, tree: Path
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, critic in config.critics.items():
        for seed in critic_seeds(config, name):
            if (name, seed) in imported.critics:
                files = _carry(directory, imported.critics[name, seed], tree)
            else:
                before = set(archive.files_of(tree))
                rows.of_critic(directory, name, seed, tree)
                files = sorted(set(archive.files_of(tree)) - before)
            if files:
                entry = {"settings": digest(critic.model_dump(mode="json")), "files": files}
                found.setdefault(name, {})[str(seed)] = entry
    return found


def _bases(
    directory: Path, config: Config, imported: Imports, runs: Iterable[str], tree: Path
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    judged = [path for path in archive.files_of(tree) if path.startswith("results/judged/")]
    for model, task in sorted({(config.runs[run].model, config.runs[run].task) for run in runs}):
        if (model, task) in imported.bases:
            files = _carry(directory, imported.bases[model, task], tree)
        else:
            before = set(archive.files_of(tree))
            rows.of_base(directory, model, task, judged, tree)
            files = sorted(set(archive.files_of(tree)) - before)
        if files:
            found.setdefault(model, {})[task] = {"files": files}
    return found


def _tests(directory: Path, tasks: Iterable[str]) -> dict[str, str]:
    """Digest of the problems that runs were evaluated on."""
    files = {task: directory / f"results/data/{task}/test.parquet" for task in sorted(tasks)}
    return {task: digest_of_file(path) for task, path in files.items() if path.is_file()}


def digest_of_file(path: Path) -> str:
    """Digest of the content of one file."""
    return next(iter(content(path).values()))
