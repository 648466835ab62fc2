"""Every model beside its base: reads the evaluations, writes one table of all models.

The comparison itself is :mod:`criticflow.stats.compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json
from criticflow.logs import progress
from criticflow.stats.compare import (
    OF_DIALOGUES,
    OF_SAMPLES,
    OtherProblems,
    comparison,
    difference,
    health,
)


def summarise(
    evaluations: Sequence[Path | str], out: Path | str, evaluate: config.Evaluate
) -> list[dict[str, Any]]:
    """Write one row per model, with its differences to its base, to ``out`` (JSON).

    Beside it, with the suffix ``.md``, stands each run's table :func:`comparison_table`.

    Args:
        evaluations: directories of evaluations. The base of a run is the one of kind ``base`` with
            the same ``model`` and ``task``.

    Raises:
        UserError: a run's base is not there, or was not evaluated on the same problems.
    """
    directories = [Path(directory) for directory in evaluations]
    summaries = [read_json(directory / "summary.json") for directory in directories]
    bases = {
        (row["model"], row["task"]): (directory, row)
        for directory, row in zip(directories, summaries, strict=True)
        if row["kind"] == "base"
    }
    rows = []
    for directory, row in zip(directories, summaries, strict=True):
        row["difference"], row["comparison"], base = None, None, None
        if row["kind"] != "base":
            if (row["model"], row["task"]) not in bases:
                raise UserError(
                    f"{directory}: its base {row['model']} was not evaluated on {row['task']}"
                )
            base_directory, base = bases[row["model"], row["task"]]
            row["difference"] = _difference(base_directory, directory, evaluate)
            row["comparison"] = comparison(base, row)
        row["warnings"] = health(row, base)
        for warning in row["warnings"]:
            progress(f"warning: {row['name']}: {warning}")
        rows.append(row)
    with replacing(Path(out).with_suffix(".md")) as partial:
        tables = map(comparison_table, (row for row in rows if row["comparison"]))
        partial.write_text("\n".join(tables), encoding="utf-8")
    write_json(out, rows)
    return rows


def comparison_table(row: Mapping[str, Any]) -> str:
    """A run's ``Base -> Trained`` as Markdown: each figure, its absolute and relative change."""
    seed = "" if row["seed"] is None else f", seed {row['seed']}"
    lines = [
        f"| {row['task']} | {row['model']} -> {row['name']}{seed} | absolute | relative |",
        "| --- | --- | --- | --- |",
    ]
    for figure, found in row["comparison"].items():
        relative = "n/a" if found["relative"] is None else f"{found['relative']:+.1%}"
        lines.append(
            f"| {figure} | {found['base']:.4f} -> {found['trained']:.4f} "
            f"| {found['absolute']:+.4f} | {relative} |"
        )
    return "\n".join(lines) + "\n"


def _difference(base: Path, trained: Path, evaluate: config.Evaluate) -> dict[str, Any]:
    try:
        return difference(
            _samples(base),
            _samples(trained),
            evaluate.k,
            evaluate.seed,
            evaluate.resamples,
            evaluate.confidence,
        )
    except OtherProblems:
        raise UserError(
            f"{trained} and {base} were not evaluated on the same problems: evaluate both again"
        ) from None


def _samples(directory: Path) -> pd.DataFrame:
    path = directory / "samples.parquet"
    there = pq.read_schema(path).names
    columns = [*OF_SAMPLES, *(name for name in OF_DIALOGUES if name in there)]
    return pd.read_parquet(path, columns=columns)
