"""Finds the part of a response that counts as its answer, in time linear in its length."""

from __future__ import annotations

TAIL = 10_000
"""Characters of a response that are looked at, from its end: the last answer wins."""


def visible(response: str) -> str:
    """The text after the last ``</think>`` (all of it if nothing closes), at most ``TAIL`` long."""
    _, _, after = response.rpartition("</think>")
    return after[-TAIL:]


def last_tagged(text: str, tag: str) -> str | None:
    """The content of the last closed ``<tag>...</tag>``, or None."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    end = text.rfind(closing)
    start = text.rfind(opening, 0, end) if end >= 0 else -1
    if start < 0:
        return None
    start += len(opening)
    return text[start : text.find(closing, start)]
