r"""GSM8K: word problems whose answer is one number.

Score: 1 if the last answer is right, else 0. Answers are the number after ``####`` (the format that
is asked for: strict) and the number in a ``\boxed{}``; only where there is neither, the last number
of the text (flexible).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any

from criticflow.config import Source
from criticflow.errors import UserError
from criticflow.tasks._base import Dropped, Problem, Score
from criticflow.tasks._response import visible
from criticflow.tasks._rows import rows
from criticflow.tasks._wording import last_boxed, text_key

MAX_DIGITS = 30
UNREADABLE = Decimal("nan")
"""An answer that is no plain number (``2^9``, ``1/2``, ``3:30``, ``1e5``): equal to nothing."""

# ASCII digits, with a hyphen or U+2212 as the sign, before or after the currency.
_NUMBER = re.compile(
    "[-\u2212]?(?:\\\\?[$€£¥₹])?[-\u2212]?(?:[0-9][0-9,]*(?:\\.[0-9]+)?|\\.[0-9]+)"
)
_MARKED = re.compile(r"#{4,}([^#\n]*)")
_GROUPED = re.compile(r"[0-9]+|[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}")
_ORNAMENT = re.compile(r"[\s*_:~≈(\[{\\$€£¥₹]*")
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf|[,!; ])")
_GOES_ON = re.compile(r"[ \t]*(?:[-+*/^:×÷\u2212]|\\times|\\cdot|\\div)[ \t]*[0-9(]|[eE][-+]?[0-9]")
_WENT_BEFORE = re.compile(r"[0-9)][ \t]*[-+*/^:×÷\u2212eE][ \t]*$|[0-9]\.$")
_ANNOTATION = re.compile(r"<<[^>]*>>")


class Gsm8k:
    """See the module. ``fields``: ``question``."""

    kind = "gsm8k"
    prompt = (
        "{question}\n\nReason step by step inside <think> </think>. Then give the final answer, a "
        "number alone, on a line of its own after ####, for example: #### 42"
    )

    def problems(self, source: Source, split: str) -> Iterator[Problem | Dropped]:
        """Rows with ``question`` and an ``answer`` that ends in ``#### N``."""
        return map(_from_row, rows(source, split))

    def score(self, response: str, ground_truth: Any) -> Score:
        """``parts``: ``strict`` (right, after ``####``) and ``flexible`` (right, found otherwise).

        Compared are exact decimal values; thousands separators, currency, a percent sign, units
        and punctuation after the number do not matter. ``format_ok``: the answer that counts
        stands after ``####``.

        Raises:
            UserError: the ground truth (never the response) is no number.
        """
        gold = _gold(str(ground_truth))
        answer, strict = final_answer(visible(response))
        correct = answer is not None and answer == gold
        parts = {"strict": float(correct and strict), "flexible": float(correct and not strict)}
        return Score(float(correct), correct=correct, format_ok=strict, parts=parts)


TASK = Gsm8k()


def final_answer(text: str) -> tuple[Decimal | None, bool]:
    """The answer that counts (None: no number at all), and whether it stands after ``####``."""
    strict = _strict(text)
    box = last_boxed(text)
    if box is not None and (strict is None or box.start > strict[1]):
        answer = _leading(box.content)
        return (UNREADABLE if answer is None else answer), False
    if strict is not None:
        return strict[0], True
    return _last(text), False


def _strict(text: str) -> tuple[Decimal, int] | None:
    """The number after the last ``####`` that has one, and where that answer ends.

    A ``####`` followed by anything else is a heading.
    """
    if "####" not in text:  # a plain search is much faster than the pattern
        return None
    for marked in reversed(list(_MARKED.finditer(text))):
        if (answer := _leading(marked[1])) is not None:
            return answer, marked.end()
    return None


def _leading(text: str) -> Decimal | None:
    """The number that a short answer begins with, or that follows its last equals sign."""
    for side in reversed(_LATEX.sub("", text[:1000].replace("{,}", ",")).split("=")):
        if (found := _NUMBER.match(side, _ORNAMENT.match(side).end())) is not None:
            return _value(side, found)
    return None


def _last(text: str) -> Decimal | None:
    end = 1 + max(text.rfind(digit) for digit in "0123456789")
    # Where the text's last number begins, unless it is too long to be read.
    start = max(0, end - 3 * MAX_DIGITS)
    found = deque(_NUMBER.finditer(text, start, end), maxlen=1)
    return _value(text, found[0]) if found else None


def _value(text: str, found: re.Match[str]) -> Decimal:
    if _GOES_ON.match(text, found.end()) or _WENT_BEFORE.search(text[: found.start()][-8:]):
        return UNREADABLE
    return _decimal(found[0])


def _decimal(number: str) -> Decimal:
    sign = "-" if "-" in number or "\u2212" in number else ""
    digits = number.lstrip("-\u2212\\$€£¥₹").rstrip(",")
    whole, point, part = digits.partition(".")
    if len(digits) > MAX_DIGITS or (whole and not _GROUPED.fullmatch(whole)):
        return UNREADABLE
    return Decimal(sign + whole.replace(",", "") + point + part)


@lru_cache(maxsize=65536)
def _gold(ground_truth: str) -> Decimal:
    found = _NUMBER.fullmatch(ground_truth.strip())
    gold = UNREADABLE if found is None else _decimal(found[0])
    if gold.is_nan():
        raise UserError(f"ground truth of gsm8k: expected a number, not {ground_truth[:80]!r}")
    return gold


def _from_row(row: dict[str, Any]) -> Problem | Dropped:
    question, worked = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip() or not isinstance(worked, str):
        return Dropped("malformed", row)
    reasoning, mark, answer = worked.rpartition("####")
    answer = answer.strip().replace(",", "")
    if not answer:
        return Dropped("empty answer", row)
    if not mark or _NUMBER.fullmatch(answer) is None:
        return Dropped("malformed", row)
    reasoning = _ANNOTATION.sub("", reasoning).strip()
    return Problem(
        key=text_key(question),
        fields={"question": question.strip()},
        ground_truth=answer,
        solution=f"<think>\n{reasoning}\n</think>\n#### {answer}",
    )
