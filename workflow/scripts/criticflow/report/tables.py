"""Results and provenance as HTML pages that need nothing but themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from criticflow.files import read_json, replacing

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }
table { border-collapse: collapse; margin-bottom: 2em; }
th, td { padding: .35em .9em; border-bottom: 1px solid #ddd; }
th, td { text-align: left; vertical-align: top; }
th { background: #f4f4f4; } td.number { text-align: right; white-space: nowrap; }
td small { color: #666; } code { font-size: 85%; }
"""

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?(<|$)")

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


def write_results(summary: Path, out: Path) -> None:
    """The rows of ``summary.json``, base models first, differences to base under the values."""
    rows = sorted(read_json(summary), key=lambda row: row["kind"] != "base")
    warnings = [f"{row['name']}: {text}" for row in rows for text in row.get("warnings", [])]
    listed = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    table = _table(_results_head(rows), map(_results_row(rows), rows))
    _write_page(out, "Results", [table, f"<ul>{listed}</ul>\n" if listed else ""])


def write_provenance(files: list[Path], out: Path) -> None:
    """One table: what differs between runs in rows, one column a run and seed."""
    records = {"/".join(path.parts[-3:-1]): read_json(path) for path in files}
    rows = {name: dict(_flat(record)) for name, record in records.items()}
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    body = ([escape(key), *(_value(row.get(key)) for row in rows.values())] for key in keys)
    _write_page(out, "Provenance", [_table(["", *map(escape, rows)], body)])


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
    value = _value(row.get(key))
    difference = (row.get("difference") or {}).get(key)
    if difference is None:
        return value
    text = f"{difference['value']:+.3f}"
    if difference["low"] is not None:
        text += f" [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{value}<br><small>{text}</small>"


def _flat(record: Any, where: str = "") -> Iterable[tuple[str, Any]]:
    """``a.b.c`` and value of everything in nested dictionaries."""
    if isinstance(record, dict) and record:
        for key, value in record.items():
            yield from _flat(value, f"{where}.{key}".lstrip("."))
    else:
        yield where, record


def _value(value: Any) -> str:
    if value is None or value == []:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"
    text = escape(str(value))
    return f'<code title="{text}">{text[:12]}…</code>' if _is_hash(text) else text


def _is_hash(text: str) -> bool:
    return len(text) >= 40 and set(text) <= set("0123456789abcdef")


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    rows = "".join("<tr>" + "".join(map(_cell, cells)) + "</tr>\n" for cells in body)
    return f"<table>\n<tr>{titles}</tr>\n{rows}</table>\n"


def _cell(content: str) -> str:
    kind = ' class="number"' if _NUMBER.match(content) else ""
    return f"<td{kind}>{content}</td>"


def _write_page(out: Path, title: str, parts: list[str]) -> None:
    with replacing(out) as aside:
        aside.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n{''.join(parts)}</body></html>\n",
            encoding="utf-8",
        )
