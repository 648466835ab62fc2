"""``criticflow score --task KIND``: JSON lines in, the same lines with their scores out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from criticflow.errors import UserError
from criticflow.tasks import Task, get_task

_DESCRIPTION = """\
Score responses as the training, the probe and the evaluation do.

input:   standard input, JSON lines: objects with "response" (text) and "ground_truth" (countdown:
         {"numbers": [8, 2], "target": 10}; gsm8k and math: text)
output:  standard output, the same lines with "score" (0 to 1), "correct" and "format_ok"
"""
_EXAMPLE = """\
example:
  echo '{"response": "#### 4", "ground_truth": "4"}' | criticflow score --task gsm8k
"""


def scored(lines: Iterable[bytes], task: Task) -> Iterator[dict[str, Any]]:
    """Score JSON lines one by one; blank lines are skipped.

    Raises:
        UserError: a line that is not such an object, with its number.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _row(line)
            score = task.score(row["response"], row["ground_truth"])
        except UserError as error:
            raise UserError(f"line {number}: {error}") from None
        yield row | {
            "score": score.score,
            "correct": score.correct,
            "format_ok": score.format_ok,
        }


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({getattr(error, 'msg', error)})") from None
    if not isinstance(row, dict):
        raise UserError(f"expected an object with response and ground_truth, not {str(row)[:40]!r}")
    for key in ("response", "ground_truth"):
        if key not in row:
            raise UserError(f"no key {key!r}; there is {', '.join(row) or 'none'}")
    if not isinstance(row["response"], str):
        raise UserError(f"response must be text, not {str(row['response'])[:40]!r}")
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Score the lines of standard input.

    Raises:
        UserError: there is no such task, or a line is not such an object.
    """
    parser = argparse.ArgumentParser(
        prog="criticflow score",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, help="kind of task: countdown, gsm8k, math, ...")
    task = get_task(parser.parse_args(arguments).task)
    for row in scored(sys.stdin.buffer, task):
        print(json.dumps(row))
