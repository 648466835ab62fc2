"""Several next pieces of a response from one state: what a critic could choose among.

A piece is a token; in a response whose states lie at line ends it is what follows up to the end of
the line. Pieces are sampled from the actor at the temperature of its rollouts, by draws of their
own, and each counts once, however often it was drawn. A piece after which the response is over is
left out: the task says what it is worth, and no critic is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from criticflow.models.line_ends import line_ends
from criticflow.models.sampling import Engine


def sample_pieces(
    engine: Engine,
    states: pd.DataFrame,
    lines: Sequence[bool],
    pieces: int,
    temperature: float,
    max_response_length: int,
    seed: int,
) -> pd.DataFrame:
    """Distinct next pieces of every state (:func:`pieces_of`).

    Args:
        states: of :func:`criticflow.stages.value_truth.states_of`.
        lines: by state, whether a piece is a line rather than a token.
        pieces: how many are sampled from each state.
        max_response_length: tokens of a response.
    """
    left = [max_response_length - length for length in states["prefix_length"]]
    # One token more than a piece has: whether it is there says whether the response went on.
    most = [most if line else min(2, most) for most, line in zip(left, lines, strict=True)]
    samples = engine.continue_from(list(states["prefix_tokens"]), pieces, temperature, most, seed)
    return pieces_of(states, samples, lines, engine.tokenizer)


def pieces_of(
    states: pd.DataFrame,
    samples: Sequence[Sequence[Sequence[int]]],
    lines: Sequence[bool],
    tokenizer: Any,
) -> pd.DataFrame:
    """Pieces that samples begin with, each once.

    Args:
        states: ``state``, ``prompt_index``, ``sample_index``, ``position``, ``prefix_tokens`` and
            ``prefix_length``.
        samples: by state and sample, token ids of what followed. One that is no longer than its
            piece is over with it.
        lines: by state, whether a piece is a line rather than a token.

    Returns:
        The states behind the pieces: ``state`` (number, from 0), ``parent`` (the state that the
        piece continues), ``prompt_index``, ``sample_index``, ``position`` (the parent's),
        ``prefix_tokens`` (of prompt, prefix and piece), ``prefix_length`` (tokens of the response)
        and ``length`` (tokens of the piece).
    """
    rows = []
    for parent, drawn, line in zip(states.itertuples(), samples, lines, strict=True):
        for piece in _distinct(drawn, line, tokenizer):
            rows.append(
                (
                    parent.state,
                    parent.prompt_index,
                    parent.sample_index,
                    parent.position,
                    [*map(int, parent.prefix_tokens), *piece],
                    parent.prefix_length + len(piece),
                    len(piece),
                )
            )
    columns = ["parent", "prompt_index", "sample_index", "position", "prefix_tokens"]
    found = pd.DataFrame(rows, columns=[*columns, "prefix_length", "length"])
    found.insert(0, "state", range(len(found)))
    return found


def _distinct(drawn: Sequence[Sequence[int]], line: bool, tokenizer: Any) -> list[tuple[int, ...]]:
    if line:
        ends = [its_ends[:1] for its_ends in line_ends(tokenizer, drawn)]
    else:
        ends = [[1]] * len(drawn)
    pieces = [
        tuple(map(int, ids[:end]))
        for ids, its_end in zip(drawn, ends, strict=True)
        for end in its_end
        if len(ids) > end
    ]
    return list(dict.fromkeys(pieces))
