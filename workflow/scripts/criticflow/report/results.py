"""Everything that a study has found, read for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.config import Config
from criticflow.config.names import run_and_seed
from criticflow.files import read_json
from criticflow.report.figures.curves import Metrics
from criticflow.report.palette import Style, styles

Row = dict[str, Any]
TABLES = ("summary", "contrasts", "arms", "critics", "savings", "speed", "tempered")
"""Files ``results/*.json`` that the report reads."""
PROBE_COLUMNS = ["prompt_index", "score", "correct", "n_tokens"]


@dataclass(frozen=True)
class Probe:
    """The probe of a base model on a task.

    Attributes:
        samples: ``prompt_index``, ``score``, ``correct`` and ``n_tokens`` of every response.
    """

    model: str
    task: str
    summary: Row
    samples: pd.DataFrame


@dataclass(frozen=True)
class Results:
    """What the report is made from; rows are those of the files of the same names."""

    config: Config
    summary: Sequence[Row]
    contrasts: Sequence[Row]
    arms: Sequence[Row]
    critics: Sequence[Row]
    savings: Sequence[Row]
    speed: Row
    tempered: Sequence[Row]
    metrics: Metrics
    evaluations: Sequence[Row]
    responses: Sequence[tuple[str, int, pd.DataFrame]]
    probes: Sequence[Probe]
    provenance: Mapping[str, Row]
    imported: Row | None = None

    @property
    def styles(self) -> dict[str, Style]:
        """How every arm is drawn."""
        return styles({name: run.factors for name, run in self.config.runs.items()})

    @property
    def metric(self) -> str:
        """The figure that the study is about: that of its first contrast."""
        return self.contrasts[0]["metric"] if self.contrasts else "greedy.pass@1"


@dataclass(frozen=True)
class Files:
    """The files of a finished study.

    Attributes:
        summary, contrasts, arms, critics, savings, speed, tempered: ``results/*.json`` of these
            names.
        metrics: ``results/runs/{run}/seed{seed}/metrics.parquet``.
        evaluations: folders ``results/eval/critics/{run}/seed{seed}``.
        judged: folders ``results/judged/{critic}/seed{seed}``.
        probes: folders ``results/probe/{model}/{task}``.
        provenance: ``results/runs/{run}/seed{seed}/provenance.json``.
        imported: ``imported/index.json``, if runs of the study were trained elsewhere.
    """

    summary: Path
    contrasts: Path
    arms: Path
    critics: Path
    savings: Path
    speed: Path
    tempered: Path
    metrics: Sequence[Path]
    evaluations: Sequence[Path]
    judged: Sequence[Path]
    probes: Sequence[Path]
    provenance: Sequence[Path]
    imported: Path | None = None


def read(config: Config, files: Files) -> Results:
    """Read what the report shows of a study.

    Raises:
        UserError: a file is broken.
    """
    tables: dict[str, dict[int, pd.DataFrame]] = {}
    for path in files.metrics:
        run, seed = run_and_seed(path)
        tables.setdefault(run, {})[seed] = pd.read_parquet(path).set_index("step")
    return Results(
        config=config,
        summary=read_json(files.summary),
        contrasts=read_json(files.contrasts),
        arms=read_json(files.arms),
        critics=read_json(files.critics),
        savings=read_json(files.savings),
        speed=read_json(files.speed),
        tempered=read_json(files.tempered),
        metrics=tables,
        evaluations=[read_json(folder / "summary.json") for folder in files.evaluations],
        responses=_responses(files.evaluations, files.judged),
        probes=[
            Probe(
                *folder.parts[-2:],
                read_json(folder / "summary.json"),
                pd.read_parquet(folder / "samples.parquet", columns=PROBE_COLUMNS),
            )
            for folder in files.probes
        ],
        provenance={
            "{}/seed{}".format(*run_and_seed(path)): read_json(path) for path in files.provenance
        },
        imported=None if files.imported is None else read_json(files.imported),
    )


def _responses(
    evaluations: Sequence[Path], judged: Sequence[Path]
) -> list[tuple[str, int, pd.DataFrame]]:
    """Critic, seed and what it says of its own actor's responses, of the first seed of each.

    Beside the truth where that is known, else of the held-out responses of the evaluation.
    """
    found: dict[str, tuple[str, int, pd.DataFrame]] = {}
    for folder in judged:
        name, seed = _critic_and_seed(folder)
        if name in found:
            continue
        table = pd.read_parquet(folder / "responses.parquet")
        own = table[(table["actor"] == name) & (table["actor_seed"] == seed)]
        if len(shown := own if len(own) else table[table["actor_seed"].isna()]):
            found[name] = (name, seed, shown)
    for folder in evaluations:
        name, seed = run_and_seed(folder / "summary.json")
        # An imported run may have come without.
        if name not in found and (folder / "responses.parquet").is_file():
            found[name] = (name, seed, pd.read_parquet(folder / "responses.parquet"))
    return list(found.values())


def _critic_and_seed(folder: Path) -> tuple[str, int]:
    """Of ``results/judged/{critic}/seed{seed}``; a critic's name may have several parts."""
    parts = folder.parts[folder.parts.index("judged") + 1 :]
    return "/".join(parts[:-1]), int(parts[-1].removeprefix("seed"))
