"""A reward that fails for some responses, or takes its process with it (``ENDS_WITH``)."""

from __future__ import annotations

import os
from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: Any, **_: Any) -> float:
    """1 for a response with an even number of characters, and an error for an odd one."""
    if len(solution_str) % 2 == 0:
        return 1.0
    if code := os.environ.get("REWARD_ENDS_WITH"):
        os._exit(int(code))
    raise ArithmeticError("an odd number of characters")
