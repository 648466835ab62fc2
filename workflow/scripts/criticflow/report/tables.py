"""Results, critics and provenance as tables."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from pyarrow import parquet

from criticflow.files import read_json
from criticflow.report import html

LOST = "criticflow/lost_trajectories"
"""Metric of a training step."""

_COLUMNS = {
    "pass@1": "pass@1",
    "mean_score": "mean score",
    "avg_entropy": "entropy (nats)",
    "format_rate": "format",
    "response_length": "length (tokens)",
    "truncation_rate": "truncated",
}
"""Keys of a row in summary.json that become columns; any further pass@k follow pass@1."""

_CRITIC_COLUMNS = [
    "problems",
    "mean return",
    "mean value",
    "explained variance",
    "Brier",
    "ECE",
    "AUC at the prompt",
    "AUC at the end",
    "r: V(prompt), pass rate",
]


def write_results(summary: Path, metrics: list[Path], out: Path) -> None:
    """The rows of ``summary.json``, base models first, differences to base under the values.

    Below it what looks ill, and each run beside its base: ``Base -> Trained``, absolute and
    relative.

    Args:
        metrics: ``.../{run}/seed{seed}/metrics.parquet`` of every run and seed.
    """
    rows = sorted(read_json(summary), key=lambda row: row["kind"] != "base")
    warnings = [f"{row['name']}: {text}" for row in rows for text in row.get("warnings", [])]
    warnings += [text for path in metrics if (text := lost_trajectories(path))]
    comparisons = [_comparison(row) for row in rows if row.get("comparison")]
    table = html.table(_results_head(rows), map(_results_row(rows), rows))
    html.write_page(out, "Results", [table, html.bullets(warnings), *comparisons])


def lost_trajectories(metrics: Path) -> str | None:
    """What a run lost to errors in rollouts (``train.lost_trajectories``); None: nothing."""
    if LOST not in parquet.read_schema(metrics).names:
        return None
    lost = parquet.read_table(metrics, columns=[LOST])[LOST].to_pandas().fillna(0)
    if not lost.any():
        return None
    run, seed = metrics.parts[-3], metrics.parts[-2].removeprefix("seed")
    return (
        f"{run}, seed {seed}: {lost.sum():.0f} trajectories were lost to errors in rollouts, in "
        f"{(lost > 0).sum()} of {len(lost)} steps: see the run's log"
    )


def write_critics(files: list[Path], out: Path) -> None:
    """One row a critic: figures over all tokens, AUC at both ends of the response."""
    if not files:
        return html.write_page(out, "Critics", ["<p>No run has a critic.</p>\n"])
    rows = map(_critic_row, map(read_json, files))
    html.write_page(out, "Critics", [html.table(["run", "seed", *_CRITIC_COLUMNS], rows)])


def write_provenance(files: list[Path], out: Path) -> None:
    """What all runs and seeds have in common, then what they have not, each with its own."""
    records = {"/".join(path.parts[-3:-1]): read_json(path) for path in files}
    rows = {name: dict(_flat(record)) for name, record in records.items()}
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    common, own = [], []
    for key in keys:
        found = {name: row.get(key) for name, row in rows.items()}
        first, *others = found.values()
        if others and all(value == first for value in others):
            common.append([escape(key), html.value(first)])
        else:
            own += [[escape(key), escape(name), html.value(value)] for name, value in found.items()]
    tables = [html.table(["all runs", ""], common)] if common else []
    tables.append(html.table(["", "run", ""], own))
    html.write_page(out, "Provenance", tables)


def _passes(rows: list[dict[str, Any]]) -> list[str]:
    names = {key for row in rows for key in row if key.startswith("pass@") and key != "pass@1"}
    return sorted(names, key=lambda name: int(name.partition("@")[2]))


def _results_keys(rows: list[dict[str, Any]]) -> dict[str, str]:
    keys = {}
    for key, title in _COLUMNS.items():
        keys[key] = title
        if key == "pass@1":
            keys |= {name: name for name in _passes(rows)}
    return keys


def _results_head(rows: list[dict[str, Any]]) -> list[str]:
    return ["model or run", *map(escape, _results_keys(rows).values())]


def _results_row(rows: list[dict[str, Any]]) -> Any:
    keys = _results_keys(rows)

    def cells(row: dict[str, Any]) -> list[str]:
        seed = "" if row.get("seed") is None else f", seed {row['seed']}"
        what = f"{row['kind']}{seed}, {row['n_prompts']} problems of {row['task']}"
        name = f"<b>{escape(row['name'])}</b><br><small>{escape(what)}</small>"
        return [name, *(_figure(row, key) for key in keys)]

    return cells


def _figure(row: dict[str, Any], key: str) -> str:
    value = html.value(row.get(key))
    difference = (row.get("difference") or {}).get(key)
    if difference is None:
        return value
    lines = [f"{difference['value']:+.3f}", html.interval(difference, "+")]
    return "".join([value, *(f"<br><small>{line}</small>" for line in lines if line)])


def _comparison(row: dict[str, Any]) -> str:
    head = [f"{escape(row['model'])} -> {escape(row['name'])}, seed {row['seed']}"]
    body = [
        [
            escape(figure),
            html.value(found["base"]),
            html.value(found["trained"]),
            f"{found['absolute']:+.3f}",
            "" if found["relative"] is None else f"{found['relative']:+.1%}",
        ]
        for figure, found in row["comparison"].items()
    ]
    return html.table([*head, "base", "trained", "absolute", "relative"], body)


def _critic_row(summary: dict[str, Any]) -> list[str]:
    tokens, positions = summary["tokens"], summary["positions"]
    return [
        f"<b>{escape(summary['name'])}</b>",
        str(summary["seed"]),
        str(summary["n_prompts"]),
        html.value(tokens["mean_return"]),
        html.value(tokens["mean_value"]),
        html.estimate(tokens["explained_variance"]),
        html.estimate(tokens["brier"]),
        html.estimate(tokens["ece"]),
        html.estimate(positions[0]["auc"]),
        html.estimate(positions[-1]["auc"]),
        html.estimate(summary["prompt_value"]["correlation"]),
    ]


def _flat(record: Any, where: str = "") -> Iterable[tuple[str, Any]]:
    """``a.b.c`` and value of everything in nested dictionaries."""
    if isinstance(record, dict) and record:
        for key, value in record.items():
            yield from _flat(value, f"{where}.{key}".lstrip("."))
    else:
        yield where, record
