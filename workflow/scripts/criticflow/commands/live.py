"""The table of ``criticflow watch`` inside the display of a Snakemake at work (``--logger rich``).

The display is that of snakemake-logger-plugin-rich: a bar for each stage. Jobs are other processes
that write to the same terminal; their lines are led through this one and appear above the display,
which they would otherwise tear apart.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text

from criticflow.commands.watch import table
from criticflow.config import Config
from criticflow.planning.costs import Took
from criticflow.training.state import states

EVERY = 5.0
"""Seconds between two looks at the files."""
SHARE = 3
"""The trainings have one in so many lines of the terminal, the stages the others."""


class Trainings:
    """Stage, step, score and time left of each training, as the files tell now and then."""

    def __init__(self, config: Config, directory: Path, every: float = EVERY) -> None:
        self._config, self._directory, self._every = config, directory, every
        self._shown: RenderableType = ""
        self._next = 0.0

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        if time.monotonic() >= self._next:
            rows = max(2, console.height // SHARE)
            # A job may move a file between two looks at it: then what was shown stays.
            with suppress(FileNotFoundError):
                found = states(self._config, self._directory)
                self._shown = table(found, Took(self._directory), rows)
            self._next = time.monotonic() + self._every
        yield self._shown


def join_display(handlers: Iterable[Any], config: Config, directory: Path = Path()) -> None:
    """Add the trainings to the live display of one of Snakemake's log handlers, if one has it.

    Args:
        handlers: those of logger plugins; the one of ``rich`` has ``live_display``.
        directory: working directory, in which results lie.
    """
    for handler in handlers:
        live = getattr(handler, "live_display", None)
        if live is not None and live.console.is_terminal:
            _lead_stderr_through(live)
            live.update(Group(Trainings(config, directory), live.get_renderable()))


def _lead_stderr_through(live: Live) -> None:
    """Have the console write to the terminal, and print what anybody writes to descriptor 2.

    Under the display's own lock, which rich takes for what a line is surrounded by but not until it
    is written: a line that met the end of the display (Ctrl-C) would draw it once more behind it.
    """
    console = live.console
    stderr = sys.__stderr__.fileno()
    console.file = os.fdopen(os.dup(stderr), "w", encoding="utf-8")
    read, write = os.pipe()
    os.dup2(write, stderr)
    os.close(write)

    def lines() -> None:
        with os.fdopen(read, encoding="utf-8", errors="replace") as said:
            for line in said:
                with live._lock:
                    console.print(Text(line.rstrip("\n")), soft_wrap=True)

    reader = threading.Thread(target=lines, name="lines of jobs", daemon=True)
    reader.start()

    def give_back() -> None:
        os.dup2(console.file.fileno(), stderr)  # the pipe's last end here: the reader ends
        reader.join(timeout=2)

    atexit.register(give_back)
