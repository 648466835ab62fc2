"""For tasks whose problems are texts: the identity of a text, and the last boxed answer."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import NamedTuple


def text_key(text: str) -> str:
    """Identity of a problem's text, whatever its spacing, case and Unicode form."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:24]


class Box(NamedTuple):
    """A boxed answer and where it begins."""

    start: int
    content: str


def last_boxed(text: str) -> Box | None:
    r"""The last closed ``\boxed{...}`` (also ``\fbox{...}`` and ``\boxed 5``), or None.

    Of nested boxes the outermost counts; the commands of the boxes inside it are removed.
    """
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    closes = _matching_braces(text)
    found: Box | None = None
    end = 0
    for box in _BOX.finditer(text):
        if box.start() < end:
            continue
        if box["bare"] is not None:
            found, end = _box(box.start(), box["bare"]), box.end()
        elif (close := closes.get(box.end() - 1)) is not None:
            found, end = _box(box.start(), text[box.end() : close]), close
    return found


def _box(start: int, content: str) -> Box:
    return Box(start, _INNER_BOX.sub("", content).strip())


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[0-9A-Za-z]+))")
_INNER_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def _matching_braces(text: str) -> dict[int, int]:
    """Where each opening brace closes, escaped braces apart; one pass."""
    closes: dict[int, int] = {}
    open_at: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            open_at.append(brace.start())
        elif brace[0] == "}" and open_at:
            closes[open_at.pop()] = brace.start()
    return closes
