"""Results and critics as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup
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
        return html.write_page(out, "Critics", [Markup("<p>No run has a critic.</p>")])
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
    return ["model or run", *_results_keys(rows).values()]


def _results_row(rows: list[dict[str, Any]]) -> Any:
    keys = _results_keys(rows)

    def cells(row: dict[str, Any]) -> list[str]:
        seed = "" if row.get("seed") is None else f", seed {row['seed']}"
        what = f"{row['kind']}{seed}, {row['n_prompts']} problems of {row['task']}"
        name = html.below(Markup("<b>{}</b>").format(row["name"]), what)
        return [name, *(_figure(row, key) for key in keys)]

    return cells


def _figure(row: dict[str, Any], key: str) -> str:
    value = html.value(row.get(key))
    difference = (row.get("difference") or {}).get(key)
    if difference is None:
        return value
    return html.below(value, f"{difference['value']:+.3f}", html.interval(difference, "+"))


def _comparison(row: dict[str, Any]) -> str:
    head = [f"{row['model']} -> {row['name']}, seed {row['seed']}"]
    body = [
        [
            figure,
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
        Markup("<b>{}</b>").format(summary["name"]),
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
