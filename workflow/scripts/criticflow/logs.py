"""Messages of a stage: everything goes to its log, single lines to the terminal too."""

from __future__ import annotations

import os
import sys

TERMINAL = "CRITICFLOW_TERMINAL"
"""Environment variable: the descriptor of the terminal, and the stage's name in front of a line."""


def progress(text: str) -> None:
    """One line, in the log (this process's stdout) and on the terminal.

    Outside of a stage there is only stdout. Works in a stage's own process and in the children that
    inherited its terminal (see :func:`terminal_fds`).
    """
    print(text, flush=True)
    fd, _, stage = os.environ.get(TERMINAL, "").partition(":")
    if fd:
        try:
            os.write(int(fd), f"[{stage}] {text}\n".encode())
        except OSError:
            # The terminal was closed, or this process did not inherit it; the log has the line.
            os.environ.pop(TERMINAL)


def terminal_fds() -> list[int]:
    """What to pass to a child (``pass_fds``) so that its :func:`progress` reaches the terminal."""
    fd = os.environ.get(TERMINAL, "").partition(":")[0]
    return [int(fd)] if fd else []


def open_terminal(stage: str) -> dict[str, str]:
    """The environment in which a child's :func:`progress` writes to what is stderr here."""
    terminal = os.dup(sys.stderr.fileno())
    os.set_inheritable(terminal, True)
    os.environ[TERMINAL] = f"{terminal}:{stage}"
    return dict(os.environ)
