"""The files that stand for a run in a study's statistics, reduced to what these read.

Paths are those of the working directory. Tables keep their rows, and the columns that summary,
contrasts, savings and report read; a critic's weights are left where they are, unless asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from criticflow.config import Config
from criticflow.files import read_json, write_json
from criticflow.models.size import model_size
from criticflow.planning.imports import critic_folder
from criticflow.report.figures.costs import PARTS
from criticflow.report.figures.curves import HEALTH, LEARNING
from criticflow.report.health import LOST
from criticflow.report.results import PROBE_COLUMNS
from criticflow.stages.critics_table import references
from criticflow.stats.compare import OF_DIALOGUES, OF_SAMPLES

SAMPLES = {*OF_SAMPLES, *OF_DIALOGUES}
"""Columns of an evaluation's ``samples.parquet``: all but texts, tokens and log-probabilities."""
METRICS = {
    "step",
    LOST,
    "perf/total_num_tokens",
    "prompt_length/mean",
    "actor/perf/max_memory_allocated_gb",
    "timing_s/step",
    *PARTS,
    *(panel.column for panel in (*LEARNING, *HEALTH)),
}
"""Columns of ``metrics.parquet``, beside those of the validation."""
VALIDATION = "val-core/"


def of_run(
    directory: Path,
    config: Config,
    run: str,
    seed: int,
    out: Path,
    responses: bool = False,
    critic: bool = False,
) -> None:
    """Copy the rows of one training below ``out``.

    Args:
        directory: working directory of a study.
        responses: whether those of the value viewer go along.
        critic: whether the critic itself does.
    """
    folder = f"results/runs/{run}/seed{seed}"
    _columns(directory, f"{folder}/metrics.parquet", _is_metric, out)
    _copy(directory, f"{folder}/provenance.json", out)
    evaluated = f"results/eval/runs/{run}/seed{seed}"
    _copy(directory, f"{evaluated}/summary.json", out)
    _columns(directory, f"{evaluated}/samples.parquet", SAMPLES.__contains__, out)
    cooled = f"results/eval/tempered/{run}/seed{seed}"
    _copy(directory, f"{cooled}/summary.json", out)
    _columns(directory, f"{cooled}/samples.parquet", SAMPLES.__contains__, out)
    judged = f"results/eval/critics/{run}/seed{seed}"
    _copy(directory, f"{judged}/summary.json", out)
    if responses:
        _copy(directory, f"{judged}/responses.parquet", out)
    for kind in ("actor", "critic"):
        if (model := directory / folder / kind).is_dir():
            write_json(out / folder / f"{kind}.json", model_size(model))
    if critic and (directory / critic_folder(run, seed)).is_dir():
        own = critic_folder(run, seed)
        shutil.copytree(directory / own, out / own)
    last = config.runs[run].train.steps
    for step in sorted({last, *config.truth.steps.get(run, [])}):
        where = f"{run}/seed{seed}" if step == last else f"{run}/seed{seed}/step{step}"
        rows = f"results/judged/{where}/rows.json"
        _copy(directory, rows, out)
        task = config.runs[run].task
        _references(directory, f"results/truth/{run}/seed{seed}/step{step}/{task}", [rows], out)


def of_base(directory: Path, model: str, task: str, judged: Sequence[str], out: Path) -> None:
    """Copy the rows of a base model on a task below ``out``.

    Args:
        judged: files of critics that were compared with its truth.
    """
    evaluated, probed = f"results/eval/base/{model}/{task}", f"results/probe/{model}/{task}"
    for folder in (evaluated, probed):
        _copy(directory, f"{folder}/summary.json", out)
    _columns(directory, f"{evaluated}/samples.parquet", SAMPLES.__contains__, out)
    _columns(directory, f"{probed}/samples.parquet", PROBE_COLUMNS.__contains__, out)
    _references(directory, f"results/truth/{model}/{task}", judged, out)


def of_critic(directory: Path, name: str, seed: int, out: Path) -> None:
    """Copy the rows of a pretrained critic below ``out``."""
    _copy(directory, f"results/judged/{name}/seed{seed}/rows.json", out)


def _is_metric(column: str) -> bool:
    return column in METRICS or column.startswith(VALIDATION)


def _copy(directory: Path, path: str, out: Path) -> None:
    if (directory / path).is_file():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / path, out / path)


def _columns(directory: Path, path: str, wanted: Callable[[str], bool], out: Path) -> None:
    if (directory / path).is_file():
        source = directory / path
        columns = [name for name in pq.read_schema(source).names if wanted(name)]
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        frame = pd.read_parquet(source, columns=columns)
        frame.to_parquet(out / path, index=False, compression="zstd")


def _references(directory: Path, folder: str, judged: Sequence[str], out: Path) -> None:
    """What an actor's truth says of references: rows of ``critics.json``."""
    if not (directory / folder / "summary.json").is_file():
        return
    files = [directory / file for file in judged]
    rows = [row for file in files if file.is_file() for row in read_json(file)]
    write_json(out / folder / "references.json", references(directory / folder, rows))
