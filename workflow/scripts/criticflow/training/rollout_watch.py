"""A rollout that generates no tokens is ended long before a step is overdue.

An engine may compute for ever without an answer, and its process shows nothing of that. While a
rollout runs, the engine's server renews a file whenever there are new tokens
(``verl_plugin.heartbeat``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from criticflow.errors import UserError


class RolloutWatch:
    """Raises when an engine that has requests generates no token for too long.

    Args:
        directory: where each engine's server renews a file while a rollout runs.
        limit: seconds.
        clock: seconds that pass while the machine is awake.

    Raises:
        UserError: from the call, with what is wrong.
    """

    def __init__(
        self, directory: Path, limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.directory, self.limit, self.clock = directory, limit, clock
        self.seen: dict[Path, tuple[int, float]] = {}

    def __call__(self) -> None:
        now = self.clock()
        renewed = {path: _renewed(path) for path in self.directory.glob("*")}
        for path, when in renewed.items():
            before, since = self.seen.get(path, (None, now))
            self.seen[path] = when, since if when == before else now
            if now - self.seen[path][1] > self.limit:
                raise UserError(
                    f"a rollout engine ({path.name}) has generated no token for "
                    f"{self.limit / 60:g} minutes (resources.rollout_stall_minutes): it is stuck, "
                    "or a batch's prompts take it longer than that"
                )
        for path in self.seen.keys() - renewed.keys():
            del self.seen[path]


def _renewed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # the rollout has just ended
