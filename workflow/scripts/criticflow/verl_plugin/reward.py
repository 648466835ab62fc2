"""The reward function that verl's reward loop calls (``reward.custom_reward_function``)."""

from __future__ import annotations

from typing import Any

from criticflow.tasks import get_task


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    **_: Any,
) -> dict[str, float]:
    """Score one response, as the probe and the evaluation do.

    Args:
        data_source: the task's kind.
        solution_str: the decoded response.
        ground_truth: as prepared (see :mod:`criticflow.stages.data`).
        extra_info: not used.

    Returns:
        ``score`` in [0, 1] is the reward; ``correct`` and ``format_ok`` are 0 or 1. Floats all,
        because verl averages what it finds here into its metrics.

    Raises:
        UserError: no such task kind, or a malformed ground truth.
    """
    score = get_task(data_source).score(solution_str, ground_truth)
    return {
        "score": score.score,
        "correct": float(score.correct),
        "format_ok": float(score.format_ok),
    }
