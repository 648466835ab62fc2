"""Where the lines of responses end, in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def line_ends(tokenizer: Any, responses: Sequence[Sequence[int]]) -> list[list[int]]:
    """By response, after how many of its tokens a line has ended."""
    breaks: dict[int, bool] = {}
    for token in {int(token) for response in responses for token in response}:
        breaks[token] = "\n" in tokenizer.decode([token])
    return [
        [place + 1 for place, token in enumerate(response) if breaks[int(token)]]
        for response in responses
    ]
