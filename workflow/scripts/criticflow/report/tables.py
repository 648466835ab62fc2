"""Results and critics as tables."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from criticflow.files import read_json
from criticflow.report import html

_COLUMNS = {
    "n_prompts": "problems",
    "pass@1": "pass@1",
    "mean_accuracy": "mean accuracy",
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


def write_results(summary: Path, out: Path) -> None:
    """The rows of ``summary.json``, base models first, differences to base under the values.

    Below it, each run beside its base: ``Base -> Trained``, absolute and relative.
    """
    rows = sorted(read_json(summary), key=lambda row: row["kind"] != "base")
    warnings = [f"{row['name']}: {text}" for row in rows for text in row.get("warnings", [])]
    comparisons = [_comparison(row) for row in rows if row.get("comparison")]
    table = html.table(_results_head(rows), map(_results_row(rows), rows))
    html.write_page(out, "Results", [table, html.bullets(warnings), *comparisons])


def write_critics(files: list[Path], out: Path) -> None:
    """One row a critic: figures over all tokens, AUC at both ends of the response."""
    if not files:
        return html.write_page(out, "Critics", ["<p>No run has a critic.</p>\n"])
    rows = map(_critic_row, map(read_json, files))
    html.write_page(out, "Critics", [html.table(["run", "seed", *_CRITIC_COLUMNS], rows)])


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
    return ["model or run", "seed", "task", *map(escape, _results_keys(rows).values())]


def _results_row(rows: list[dict[str, Any]]) -> Any:
    keys = _results_keys(rows)

    def cells(row: dict[str, Any]) -> list[str]:
        name = f"<b>{escape(row['name'])}</b> <small>{escape(row['kind'])}</small>"
        seed = "" if row.get("seed") is None else str(row["seed"])
        return [name, seed, escape(row["task"]), *(_figure(row, key) for key in keys)]

    return cells


def _figure(row: dict[str, Any], key: str) -> str:
    value = html.value(row.get(key))
    difference = (row.get("difference") or {}).get(key)
    if difference is None:
        return value
    text = f"{difference['value']:+.3f} {html.interval(difference, '+')}".rstrip()
    return f"{value}<br><small>{text}</small>"


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
