"""Where the lines of responses end, in tokens, and which states of a long response follow; where
the turns of a dialogue begin."""

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


def line_states(length: int, ends: Sequence[int]) -> list[int]:
    """After how many tokens the states of a long response lie, ascending: where it and each of its
    lines begin, and where its last token is still to be chosen.

    Args:
        length: tokens of the response.
        ends: after how many of them a line has ended.
    """
    last = length - 1
    return sorted({0, *(end for end in ends if end < last), last})


def turn_starts(written: Sequence[int]) -> list[int]:
    """After how many tokens of a dialogue the model's turns begin, but for the first.

    Args:
        written: 1 where a token is the model's own, 0 where it read it.
    """
    return [at for at in range(1, len(written)) if written[at] and not written[at - 1]]
