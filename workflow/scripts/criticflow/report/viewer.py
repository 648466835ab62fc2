"""Responses token by token, as data for the page's value viewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

TOKENS = 1200
"""Most tokens of a response that are shown."""


def viewer(responses: Sequence[tuple[str, int, pd.DataFrame]]) -> list[dict[str, Any]]:
    """One entry a critic: ``critic``, ``seed``, ``actor`` and its ``responses``.

    Each response has ``case``, ``prompt``, ``score``, ``correct``, and lists of one entry a token:
    ``text``, ``value``, ``advantage``, ``truth`` and ``error`` (None where it is not known).
    """
    return [
        {
            "critic": critic,
            "seed": seed,
            "actor": _actor(critic, table),
            "responses": [
                _response(part)
                for _, part in table.groupby(["prompt_index", "sample_index"], sort=False)
            ],
        }
        for critic, seed, table in responses
        if len(table)
    ]


def _actor(critic: str, table: pd.DataFrame) -> str:
    """Whose responses these are."""
    return critic if "actor" not in table else str(table["actor"].iloc[0])


def _response(part: pd.DataFrame) -> dict[str, Any]:
    part = part.sort_values("token")
    first, shown = part.iloc[0], part.head(TOKENS)
    return {
        "case": first["case"],
        "prompt": first["prompt"],
        "score": float(first["score"]),
        "correct": bool(first["correct"]),
        "left_out": len(part) - len(shown),
        "text": shown["text"].tolist(),
        "value": _numbers(shown["value"]),
        "advantage": _numbers(shown["advantage"]),
        "truth": _numbers(shown["v_mc"]),
        "error": _numbers(shown["v_se"]),
    }


def _numbers(column: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else round(float(value), 4) for value in column]
