"""HTML pages that need nothing but themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from criticflow.files import replacing

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1em; color: #222; background: #fff; }
table { border-collapse: collapse; margin-bottom: 2em; max-width: 100%; }
th, td { padding: .35em .6em; border-bottom: 1px solid #ddd; }
th, td { text-align: left; vertical-align: top; }
th { background: #f4f4f4; } th:first-child { min-width: 8em; }
td { overflow-wrap: anywhere; } td.number { text-align: right; overflow-wrap: normal; }
td small { color: #666; } code { font-size: 85%; }
pre { white-space: pre-wrap; margin: .2em 0; }
"""

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[+-]\d+)?%?(<|$)")


def write_page(out: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page whose body is ``parts``, HTML all."""
    with replacing(out) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n{''.join(parts)}</body></html>\n",
            encoding="utf-8",
        )


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML; numbers stand on the right."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    rows = "".join("<tr>" + "".join(map(_cell, cells)) + "</tr>\n" for cells in body)
    return f"<table>\n<tr>{titles}</tr>\n{rows}</table>\n"


def bullets(texts: Sequence[str]) -> str:
    """A list of plain texts; nothing at all if there are none."""
    listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{listed}</ul>\n" if listed else ""


def value(content: Any) -> str:
    """A cell for a plain value: numbers to three places, checksums shortened, None empty."""
    if content is None or content == []:
        return ""
    if isinstance(content, float):
        return f"{content:.4g}" if abs(content) >= 1 else f"{content:.3f}"
    text = escape(str(content))
    return f'<code title="{text}">{text[:12]}…</code>' if _is_hash(text) else text


def interval(figure: dict[str, Any], sign: str = "") -> str:
    """``[low, high]`` of an estimate; empty where there is none."""
    if figure["low"] is None:
        return ""
    return f"[{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]"


def estimate(figure: dict[str, Any] | None) -> str:
    """A cell for an estimate, its interval below; None is an undefined figure."""
    if figure is None:
        return "n/a"
    return f"{value(figure['value'])}<br><small>{interval(figure)}</small>"


def _is_hash(text: str) -> bool:
    return len(text) >= 40 and set(text) <= set("0123456789abcdef")


def _cell(content: str) -> str:
    kind = ' class="number"' if _NUMBER.match(content) else ""
    return f"<td{kind}>{content}</td>"
