"""HTML pages that need nothing but themselves, from jinja2 templates.

Text is escaped where it is put into a template; what is HTML already is :class:`Markup`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from criticflow.files import replacing

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[+-]\d+)?%?(<|$)")

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.tests["number_cell"] = lambda cell: _NUMBER.match(cell) is not None
_PARTS: Any = _TEMPLATES.get_template("parts.html.jinja").module


def write_page(out: Path, title: str, parts: Iterable[Markup]) -> None:
    """Write a page whose body is ``parts``."""
    page = _TEMPLATES.get_template("page.html.jinja").render(title=title, parts=list(parts))
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> Markup:
    """A table; numbers stand on the right."""
    return _PARTS.table(head, body)


def bullets(texts: Sequence[str]) -> Markup:
    """A list of texts; nothing at all if there are none."""
    return _PARTS.bullets(texts)


def responses(found: Sequence[dict[str, Any]]) -> Markup:
    """What a model wrote: ``response``, ``score`` and ``correct`` of each."""
    return _PARTS.responses(found)


def value(content: Any) -> str:
    """A cell for a plain value: numbers to three places, checksums shortened, None empty."""
    if content is None or content == []:
        return ""
    if isinstance(content, float):
        return f"{content:.4g}" if abs(content) >= 1 else f"{content:.3f}"
    text = str(content)
    if not _is_hash(text):
        return text
    return Markup('<code title="{}">{}…</code>').format(text, text[:12])


def interval(figure: dict[str, Any], sign: str = "") -> str:
    """``[low, high]`` of an estimate; empty where there is none."""
    if figure["low"] is None:
        return ""
    return f"[{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]"


def estimate(figure: dict[str, Any] | None) -> str:
    """A cell for an estimate, its interval below; None is an undefined figure."""
    return "n/a" if figure is None else below(value(figure["value"]), interval(figure))


def below(content: str, *lines: str) -> Markup:
    """A cell with further lines in small print; an empty line is none."""
    small = [Markup("<br><small>{}</small>").format(line) for line in lines if line]
    return Markup("").join([escape(content), *small])


def _is_hash(text: str) -> bool:
    return len(text) >= 40 and set(text) <= set("0123456789abcdef")
