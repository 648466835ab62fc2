"""Countdown: reach a target with given numbers, each used exactly once.

Score: 0.1 for a well-formed expression in the last ``<answer>``, 0.1 more if it uses exactly the
given numbers, the remaining 0.8 if its exact value is also the target.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from criticflow.config import Source
from criticflow.errors import UserError
from criticflow.tasks import _arithmetic as arithmetic
from criticflow.tasks._base import Dropped, Problem, Score
from criticflow.tasks._countdown_problems import generate, solve
from criticflow.tasks._response import last_tagged, visible
from criticflow.tasks._rows import rows

FORMAT, NUMBERS, VALUE = 0.1, 0.1, 0.8
MAX_NUMBERS = 5
"""More numbers than this are not solved in reasonable time (a row with more is dropped)."""


class Countdown:
    """See the module. ``fields``: ``numbers`` (separated by spaces) and ``target``."""

    kind = "countdown"
    prompt = (
        "Using the numbers {numbers}, write an arithmetic expression that equals {target}. Use "
        "only + - * / and parentheses, and use each number exactly once. First reason step by step "
        "inside <think> </think>, then give only the expression inside <answer> </answer>, for "
        "example <answer>(1 + 2) / 3</answer>."
    )

    def problems(self, source: Source, split: str) -> Iterator[Problem | Dropped]:
        """Generated problems, or rows with ``nums``, ``target`` and perhaps a ``hint``."""
        if source.generate is not None:
            for numbers, target, solution in generate(source.generate):
                yield _problem(numbers, target, f"<answer>{solution}</answer>")
            return
        for row in rows(source, split):
            yield _from_row(row)

    def score(self, response: str, ground_truth: Any) -> Score:
        """``parts``: ``format``, ``numbers`` and ``value``, which add up to the score.

        ``ground_truth`` is ``{"numbers": [8, 2], "target": 10}`` or the same as JSON text. An
        expression may be followed by ``= target``.

        Raises:
            UserError: the ground truth (never the response) is malformed.
        """
        given, target = _read(ground_truth)
        answer = last_tagged(visible(response), "answer")
        tree = None if answer is None else arithmetic.parse(_without_result(answer, target))
        if tree is None:
            return Score(0.0, correct=False, format_ok=False, parts=_parts(False, False, False))
        uses_given = arithmetic.numbers(tree) == given
        # Numbers first: only then are the operands, and so the arithmetic, known to be small.
        correct = uses_given and arithmetic.value(tree) == target
        parts = _parts(True, uses_given, correct)
        return Score(sum(parts.values()), correct=correct, format_ok=True, parts=parts)


TASK = Countdown()


def without_last_number(solution: str, fewest: int = 3) -> str | None:
    """A worked solution whose expression ends before its last operation: a well-formed mistake.

    None where there is nothing to leave out, with fewer than ``fewest`` numbers (at least two) or
    without ``<answer>``.
    """
    if (answer := last_tagged(solution, "answer")) is None:
        return None
    tree = arithmetic.parse(answer)
    if tree is None or len(arithmetic.numbers(tree)) < fewest:
        return None
    depth = 0
    for place in range(len(answer) - 1, 0, -1):
        depth += (answer[place] == ")") - (answer[place] == "(")
        if depth == 0 and answer[place] in "+-*/":
            shorter = answer[:place].rstrip()
            return solution.replace(f"<answer>{answer}</answer>", f"<answer>{shorter}</answer>")
    return None


def _parts(well_formed: bool, uses_given: bool, correct: bool) -> dict[str, float]:
    return {
        "format": FORMAT * well_formed,
        "numbers": NUMBERS * uses_given,
        "value": VALUE * correct,
    }


def _without_result(answer: str, target: int) -> str:
    expression, equals, result = answer.rpartition("=")
    return expression if equals and result.strip() == str(target) else answer


def _read(ground_truth: Any) -> tuple[list[int], int]:
    if isinstance(ground_truth, str):
        numbers, target = _parsed(ground_truth)
        return numbers, target
    return _checked(ground_truth)


@lru_cache(maxsize=65536)
def _parsed(ground_truth: str) -> tuple[list[int], int]:
    try:
        return _checked(json.loads(ground_truth))
    except ValueError:
        return _checked(ground_truth)


def _checked(ground_truth: Any) -> tuple[list[int], int]:
    try:
        if isinstance(ground_truth, Mapping):
            return sorted(map(_integer, ground_truth["numbers"])), _integer(ground_truth["target"])
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(
        'ground truth of countdown: expected {"numbers": [8, 2], "target": 10}, '
        f"not {str(ground_truth)[:80]!r}"
    )


def _integer(value: Any) -> int:
    """An integer, also one written as text (CSV) or of another integer type."""
    if isinstance(value, (bool, float)):
        raise ValueError(value)
    return int(value)


def _problem(numbers: list[int], target: int, solution: str | None) -> Problem:
    return Problem(
        key=f"{' '.join(map(str, sorted(numbers)))} = {target}",
        fields={"numbers": " ".join(map(str, numbers)), "target": target},
        ground_truth={"numbers": numbers, "target": target},
        solution=solution,
    )


def _from_row(row: dict[str, Any]) -> Problem | Dropped:
    try:
        numbers = row["nums"]
        numbers = json.loads(numbers) if isinstance(numbers, str) else numbers
        numbers, target = [_integer(number) for number in numbers], _integer(row["target"])
    except (KeyError, TypeError, ValueError):
        return Dropped("malformed", row)
    if not 1 <= len(numbers) <= MAX_NUMBERS or min(numbers) < 0:
        return Dropped("malformed", row)
    solution = _hinted(row.get("hint"), numbers, target) or solve(numbers, target)
    if solution is None:
        return Dropped("unsolvable", row)
    if not solution.endswith("</answer>"):
        solution = f"<answer>{solution}</answer>"
    return _problem(numbers, target, solution)


def _hinted(hint: Any, numbers: list[int], target: int) -> str | None:
    """The source's worked solution in our answer format, if it has one that is right."""
    try:
        hint = json.loads(hint) if isinstance(hint, str) and hint.startswith("[") else hint
    except ValueError:
        return None
    if not isinstance(hint, list) or not hint or not all(isinstance(line, str) for line in hint):
        return None
    *steps, last = (line.strip() for line in hint)
    answer = last.rpartition("equation is ")[2]
    solution = f"<think>\n{chr(10).join(steps)}\n</think>\n<answer>{answer}</answer>"
    ground_truth = {"numbers": numbers, "target": target}
    return solution if TASK.score(solution, ground_truth).correct else None
