"""A reward that nearly every response has another of, so that a change of any reward shows."""

from __future__ import annotations

from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: Any, **_: Any) -> float:
    """The share of even code points in a response, in [0, 1]."""
    return sum(ord(char) % 2 == 0 for char in solution_str) / max(1, len(solution_str))
