"""A training job that can no longer go on is ended, with the reason as the last lines of its log.

verl waits for ever for the answer of a rollout worker that has died. So the process that started
the job looks at its processes and at its metrics (``processes.run_owned(watch=...)``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from criticflow.errors import UserError
from criticflow.runtime.processes import alive, descendants

ESSENTIAL = (
    "gcs_server",
    "raylet",
    "ray::TaskRunner",
    "ray::WorkerDict",
    "ray::vLLMHttpServer",
    "ray::BatchedServer",
    "ray::AgentLoopWorker",
    "ray::TellingAgentLoopWorker",
    "ray::RewardLoopWorker",
    "ray::TransferQueueController",
    "ray::SimpleStorageUnit",
    "VLLM::",
)
"""Beginnings of the titles of the processes without which training cannot go on."""
LOOK = 2.0
"""Seconds between two looks at the processes."""
LOST_SECONDS = 30.0
"""Seconds that the job has to end by itself after one of them has ended."""
CONTROLLER = "ray::TaskRunner"
"""The one for whose answer the job's first process waits. When it has ended, after the last step,
a stop or an error, that process ends Ray and then itself."""
ENDING_SECONDS = 300.0
"""Seconds that the job has for that; it has taken 30 where several trainings ended at once."""
TAIL = 1000
"""Lines of the log that are searched for a traceback."""
WORKER = re.compile(r"\(\w+ pid=\d+\)")
"""What Ray writes before each line of a worker."""


class Watchdog:
    """Raises when the job below this process has lost a process or makes no progress.

    Time is that of a clock which stands still while the machine is suspended.

    Args:
        newest: a value that changes when the job has made progress.
        stall: seconds without progress after which it is given up.

    Raises:
        UserError: from the call, with what is wrong.
    """

    def __init__(self, newest: Callable[[], object], stall: float) -> None:
        self.newest, self.stall = newest, stall
        self.seen, self.progressed = newest(), time.monotonic()
        self.looked = -LOOK
        self.known: dict[psutil.Process, str] = {}
        self.lost: tuple[float, str] | None = None
        self.controller_ended = False

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.looked < LOOK:
            return
        self.looked = now
        self._look(now)
        patience = ENDING_SECONDS if self.controller_ended else LOST_SECONDS
        if self.lost and now - self.lost[0] > patience:
            raise UserError(f"{self.lost[1]} has ended, and training waits for it in vain")
        if (newest := self.newest()) != self.seen:
            self.seen, self.progressed = newest, now
        if now - self.progressed > self.stall:
            minutes = self.stall / 60
            raise UserError(f"no step ended in {minutes:g} minutes (resources.stall_minutes)")

    def _look(self, now: float) -> None:
        self.known |= essential_processes()
        ended = [title for process, title in self.known.items() if not alive(process)]
        if ended and self.lost is None:
            self.lost = now, ended[0]
        self.controller_ended = any(title.startswith(CONTROLLER) for title in ended)


def essential_processes() -> dict[psutil.Process, str]:
    """Those of :data:`ESSENTIAL` below this process, with their titles.

    A child that has just been forked still has its parent's title and does not count.
    """
    found: dict[psutil.Process, str] = {}
    parents: dict[psutil.Process, int] = {}
    for process in descendants():
        try:
            title = process.cmdline()[0].rsplit("/", 1)[-1].split(" ")[0]
            parents[process] = process.ppid()
        except (psutil.NoSuchProcess, IndexError):
            continue  # it has just ended
        if title.startswith(ESSENTIAL):
            found[process] = title
    titles = {process.pid: title for process, title in found.items()}
    return {one: title for one, title in found.items() if titles.get(parents[one]) != title}


def repeat_traceback(log: Path, reason: str) -> None:
    """Make the last traceback of a worker the last lines of the log, after the reason of the end.

    Ray copies the output of its workers into the log, mixed, the worker's name before each line.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    workers = [WORKER.match(line) for line in lines]
    starts = [n for n, line in enumerate(lines) if workers[n] and "Traceback (most" in line]
    with open(log, "a", encoding="utf-8") as stream:
        stream.write(f"\nended: {reason}\n")
        if starts:
            name = workers[starts[-1]].group()
            stream.writelines(f"{line}\n" for line in lines[starts[-1] :] if line.startswith(name))
