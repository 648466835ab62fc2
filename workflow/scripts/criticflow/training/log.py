"""What verl's trainer logged: one table at the end, one line a step while it runs.

verl's file logger truncates its file when it starts, so each attempt at a run (first start, resume
after a crash) has a file of its own. Where two attempts made the same step, the later row counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.errors import UserError


def next_attempt(directory: Path) -> Path:
    """The file for another attempt's metrics."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"attempt-{len(attempts(directory)):04d}.jsonl"


def attempts(directory: Path) -> list[Path]:
    """Metrics files of all attempts, oldest first."""
    return sorted(directory.glob("attempt-*.jsonl"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Complete rows of one file; the last line may be cut where a process was killed."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def metrics_table(directory: Path, steps: int) -> pd.DataFrame:
    """One row a step, ``step`` first, then verl's metric names.

    Args:
        directory: holds the attempts' files.
        steps: how many steps the run has; the table has 1 to ``steps``, each once. What verl
            logged before the first step (validation) is row 0, if there is any.

    verl saves a step before it logs it. A job that is killed between the two goes on after that
    step, whose row has nothing but its number.

    Raises:
        UserError: a step is missing, and no attempt went on after it.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for path in attempts(directory):
        rows = read_rows(path)
        first = min((row["step"] for row in rows), default=1)
        if first > 1:
            by_step.setdefault(first - 1, {})
        for row in rows:  # what validation before the first step found joins that step's row
            by_step[row["step"]] = by_step.get(row["step"], {}) | row["data"]
    missing = sorted(set(range(1, steps + 1)) - by_step.keys())
    if missing:
        raise UserError(f"{directory} lacks the metrics of step {missing[0]} of {steps}")
    return pd.DataFrame(
        [{"step": step, **by_step[step]} for step in sorted(by_step) if step <= steps]
    )


class Progress:
    """Watches a metrics file and reports each new step: score, seconds a step, time left."""

    def __init__(self, path: Path, steps: int, report: Callable[[str], None]) -> None:
        self.path, self.steps, self.report = path, steps, report
        self.seen = 0
        self.changed: float | None = None

    def newest(self) -> float | None:
        """When the last row was written, seconds since the epoch; None: there is none yet."""
        return self.path.stat().st_mtime if self.path.exists() else None

    def __call__(self) -> None:
        before, self.changed = self.changed, self.newest()
        if self.changed == before:
            return
        rows = [row for row in read_rows(self.path) if row["step"] > 0]
        for row in rows[self.seen :]:
            self.report(self._line(row, rows))
        self.seen = len(rows)

    def _line(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
        data = row["data"]
        # The first step of an attempt pays for start-up.
        times = [other["data"].get("timing_s/step", 0.0) for other in rows[1:] or rows]
        pace = sum(times) / len(times)
        left = pace * (self.steps - row["step"])
        return (
            f"step {row['step']}/{self.steps}  score {data.get('critic/score/mean', 0):.3f}  "
            f"entropy {data.get('actor/entropy', 0):.3f}  "
            f"{data.get('timing_s/step', 0):.1f} s  {_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
