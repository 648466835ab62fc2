"""Snakemake's own state in the working directory: stale locks, and which jobs failed.

Snakemake's own lock files do not name their owner, so after a SIGKILL they block the next run. Here
every Snakemake that reads the workflow holds a shared ``flock`` while it runs, which the kernel
releases however it ends. A Snakemake that gets this lock exclusively is the only one, and lock
files that are there belong to processes that have ended.
"""

from __future__ import annotations

import fcntl
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from criticflow.errors import UserError

_held = []  # open for as long as this process lives


def check_interpreter(path: str = sys.executable) -> None:
    """Raise :class:`UserError` where Snakemake could not start a job's script with this Python.

    Snakemake writes the path into a shell command without quoting it.
    """
    if re.search(r"[^\w/.+@%:,=-]", path):
        raise UserError(
            f"{path}: Snakemake does not quote the path of its Python: move it (or the project, "
            "whose .venv it is in) to a path without spaces and quotes"
        )


def claim_workdir(state: Path = Path(".snakemake"), patience: float = 2.0) -> None:
    """Hold the working directory, and remove the locks of Snakemakes that have ended.

    It does not wait for another Snakemake that is at work there: Snakemake itself then refuses, or
    goes on if the files of the two do not overlap.

    Args:
        state: Snakemake's own folder.
        patience: seconds to wait for others that end soon (dry runs) where there are locks.
    """
    state.mkdir(exist_ok=True)
    stream = open(state / "criticflow.flock", "a")  # noqa: SIM115
    _held.append(stream)
    try:
        deadline = time.monotonic() + patience
        while _locks(state):
            if _alone(stream.fileno()):
                for lock in _locks(state):
                    lock.unlink(missing_ok=True)
                break
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        fcntl.flock(stream, fcntl.LOCK_SH)
    except OSError:
        # A file system without flock: Snakemake's message says how to unlock by hand.
        return


def failed_logs(snakemake_logs: Iterable[str]) -> list[str]:
    """Logs of the jobs that failed, as Snakemake's own logs name them."""
    text = "".join(Path(path).read_text(encoding="utf-8") for path in snakemake_logs)
    return list(dict.fromkeys(re.findall(r"^\s+log: (\S+) \(check log", text, re.MULTILINE)))


def _locks(state: Path) -> list[Path]:
    return list((state / "locks").glob("*"))


def _alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
