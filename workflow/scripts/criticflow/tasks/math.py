r"""MATH: competition problems whose answer is an expression in LaTeX.

Score: 1 if the last answer equals the reference by math-verify, else 0. The answer is the last
``\boxed{}`` (the format that is asked for); only where there is none, what math-verify finds at the
end of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from criticflow.config import Source
from criticflow.errors import UserError
from criticflow.tasks import _math_pool
from criticflow.tasks._base import Dropped, Problem, Score
from criticflow.tasks._response import visible
from criticflow.tasks._rows import rows
from criticflow.tasks._wording import last_boxed, text_key

MAX_LENGTH = 1000
"""Characters of an answer that are compared; the longest of MATH has 159."""

_WORDS = re.compile(r"\\(?:text|textbf|textnormal|mathrm|mbox)\s*\{([^{}]*)\}")
_PERCENT = re.compile(r"\s*\\?%$")
_LAYOUT = re.compile(
    r"(?<![0-9])\s+|\s+(?![0-9])|\\left(?![a-z])|\\right(?![a-z])|\\[,!;]|(?<=\\)[dt](?=frac)"
    r"|\^\s*(?:\\circ|\{\s*\\circ\s*\})"
)
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class Math:
    """See the module. ``fields``: ``problem``."""

    kind = "math"
    prompt = (
        "{problem}\n\nReason step by step inside <think> </think>. Then give the final answer "
        "inside \\boxed{{}}."
    )

    def problems(self, source: Source, split: str) -> Iterator[Problem | Dropped]:
        """Rows with ``problem``, ``solution`` (the reference is its box) and perhaps ``answer``."""
        return map(_from_row, rows(source, split))

    def score(self, response: str, ground_truth: Any) -> Score:
        """``parts``: ``strict`` (right, and boxed) and ``flexible`` (right, found otherwise).

        math-verify runs in another process with a hard limit of time and memory (see
        :mod:`criticflow.tasks._math_worker`); an answer that exceeds them is wrong.

        Raises:
            UserError: the ground truth (never the response) is empty or no text.
        """
        if not isinstance(ground_truth, str) or not ground_truth.strip():
            raise UserError(f"ground truth of math: expected LaTeX, not {str(ground_truth)[:80]!r}")
        text = visible(response)
        box = last_boxed(text)
        strict = box is not None
        if box is not None:
            correct = _boxed_equal(ground_truth, box.content)
        else:
            correct = _found_equal(ground_truth, text)
        parts = {"strict": float(correct and strict), "flexible": float(correct and not strict)}
        return Score(float(correct), correct=correct, format_ok=strict, parts=parts)


TASK = Math()


def _boxed_equal(gold: str, answer: str) -> bool:
    gold, answer = gold.strip(" .,;"), answer.strip(" .,;")
    if not answer or len(answer) > MAX_LENGTH:
        return False
    if _equal(gold, answer):
        return True
    bare_gold, bare_answer = _PERCENT.sub("", gold), _PERCENT.sub("", answer)
    # Asked for a percentage, 17 and 17 % are one answer.
    one_has_it = (bare_gold != gold) != (bare_answer != answer)
    return one_has_it and bool(bare_answer) and _equal(bare_gold, bare_answer)


def _equal(gold: str, answer: str) -> bool:
    if _layout_free(gold) == _layout_free(answer):
        return True
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return int(answer) == int(gold)
    return _math_pool.equal(_boxed(gold), _boxed(answer)) is True


def _layout_free(answer: str) -> str:
    return _LAYOUT.sub("", _WORDS.sub(r"\1", answer))


def _found_equal(gold: str, text: str) -> bool:
    text = text[-MAX_LENGTH:]
    return bool(text.strip()) and _math_pool.equal(_boxed(gold), text) is True


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _from_row(row: dict[str, Any]) -> Problem | Dropped:
    problem, worked = row.get("problem"), row.get("solution")
    if not isinstance(problem, str) or not problem.strip() or not isinstance(worked, str):
        return Dropped("malformed", row)
    if row.get("level") == "Level ?":
        return Dropped("unknown level", row)
    box = last_boxed(worked)
    # The solution's box before a column taken from it: such columns have lost backslashes.
    answer = box.content if box and box.content else row.get("answer")
    if answer is None or not str(row.get("answer", answer)).strip():
        return Dropped("empty answer", row)
    answer = str(answer).strip(" .,;\n")
    return Problem(
        key=text_key(problem),
        fields={"problem": problem.strip()},
        ground_truth=answer,
        solution=f"<think>\n{worked.strip()}\n</think>\n{_boxed(answer)}",
    )
