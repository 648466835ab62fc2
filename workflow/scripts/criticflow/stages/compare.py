"""Every model beside its base: differences per problem, health, and one table of all models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json
from criticflow.logs import progress
from criticflow.stages.evaluate import prompt_values
from criticflow.stats import outcomes

ENTROPY_COLLAPSE = 0.01
"""Nats a token; less means that the model has (nearly) one answer to each prompt."""
FORMAT_DROP = 0.05
"""Loss of format rate against the base that is worth a warning."""
LENGTH_COLLAPSE = 0.5
"""Share of the base's mean response length under which a model has stopped to reason."""


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
            row["difference"] = difference(base_directory, directory, evaluate)
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


def difference(base: Path, trained: Path, evaluate: config.Evaluate) -> dict[str, Any]:
    """Trained less base, per problem: bootstrap intervals, and McNemar for greedy answers."""
    first, second = _samples(base), _samples(trained)
    values = [
        prompt_values(frame[frame["mode"] == "sampled"], evaluate.k) for frame in (first, second)
    ]
    greedy = [
        frame[frame["mode"] == "greedy"].set_index("key")[["correct", "score"]]
        for frame in (first, second)
    ]
    if not values[0].index.is_unique or set(values[0].index) != set(values[1].index):
        raise UserError(
            f"{trained} and {base} were not evaluated on the same problems: evaluate both again"
        )
    order = values[0].index
    values[1], greedy[0], greedy[1] = (
        frame.loc[order] for frame in (values[1], greedy[0], greedy[1])
    )
    options = (evaluate.seed, evaluate.resamples, evaluate.confidence)
    found: dict[str, Any] = {
        figure: asdict(
            outcomes.paired_difference(
                values[0][figure].to_numpy(), values[1][figure].to_numpy(), *options
            )
        )
        for figure in values[0].columns
    }
    right = [frame["correct"].to_numpy(dtype=bool) for frame in greedy]
    found["greedy"] = {
        "pass@1": asdict(
            outcomes.paired_difference(right[0].astype(float), right[1].astype(float), *options)
        ),
        "mcnemar": asdict(outcomes.mcnemar(right[0], right[1])),
    }
    return found


def health(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[str]:
    """What looks ill about a model: collapsed entropy, lost format, collapsed length."""
    found = []
    if row["avg_entropy"] < ENTROPY_COLLAPSE:
        found.append(
            f"entropy {row['avg_entropy']:.4f} is under {ENTROPY_COLLAPSE} nats a token: "
            "mode collapse"
        )
    if base is None:
        return found
    if row["format_rate"] < base["format_rate"] - FORMAT_DROP:
        found.append(f"format rate fell from {base['format_rate']:.3f} to {row['format_rate']:.3f}")
    if row["response_length"] < LENGTH_COLLAPSE * base["response_length"]:
        found.append(
            f"mean response length fell from {base['response_length']:.1f} to "
            f"{row['response_length']:.1f} tokens"
        )
    return found


def comparison(base: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Per figure ``base``, ``trained``, ``absolute`` and ``relative`` change (None: base is 0)."""
    ks = sorted((key for key in base if key.startswith("pass@")), key=lambda key: int(key[5:]))
    found = {}
    for figure in ("mean_score", *ks, "avg_entropy", "format_rate", "response_length"):
        before, after = base[figure], trained[figure]
        found[figure] = {
            "base": before,
            "trained": after,
            "absolute": after - before,
            "relative": (after - before) / before if before else None,
        }
    return found


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


def _samples(directory: Path) -> pd.DataFrame:
    columns = ["key", "mode", "prompt_index", "sample_index", "score", "correct", "format_ok"]
    return pd.read_parquet(
        directory / "samples.parquet", columns=[*columns, "n_tokens", "truncated"]
    )
