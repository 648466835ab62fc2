"""``python -m criticflow.score --task T``: JSON lines in, the same lines with their scores out.

Each line is an object with ``response`` (text) and ``ground_truth``; ``score``, ``correct`` and
``format_ok`` are added, everything else is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from criticflow.errors import UserError, run_program
from criticflow.tasks import Task, get_task


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m criticflow.score", description=__doc__)
    parser.add_argument("--task", required=True, help="kind of task: countdown, gsm8k, math, ...")
    task = get_task(parser.parse_args().task)
    for row in scored(sys.stdin.buffer, task):
        print(json.dumps(row))


if __name__ == "__main__":
    run_program(main)
