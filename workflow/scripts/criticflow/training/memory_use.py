"""The memory of a training's processes while it runs, and whether it ended as memory ran out."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil

from criticflow.runtime.processes import descendants

LOOK = 5.0
"""Seconds between two looks at the processes, at least."""
SHARE = 0.02
"""Of the time that looking may take: the kernel visits every page of a process for it, which takes
longer the more a training uses."""
SMALL = 0.3
"""GiB under which a process is not named."""
TAIL = 2000
"""Lines of the log that are searched for a cause."""
CAUSES = re.compile(
    r"node running low on memory|memory usage threshold|killed due to memory pressure"
    r"|OutOfMemoryError|\bMemoryError\b|bad_alloc|can't allocate memory|Cannot allocate memory"
    r"|Available memory on node"
)
"""What Ray, Python, C++, torch and vLLM say when memory runs out."""
_KERNEL = Path("/proc/vmstat")
GIB = 2**30


class MemoryUse:
    """The peak of the memory of all processes below this one; called while they run.

    A page that several processes share counts in parts (the kernel's proportional set size).
    """

    def __init__(self) -> None:
        self.next_look = 0.0
        self.killed_before = killed_by_kernel()
        self.peak: list[tuple[str, float]] = []

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self.next_look:
            return
        found = [use for process in descendants() if (use := _use(process))]
        took = time.monotonic() - now
        self.next_look = now + max(LOOK, took / SHARE)
        if _sum(found) > _sum(self.peak):
            self.peak = found

    def described(self) -> str:
        """The peak, and the processes that it consists of."""
        groups: dict[str, list[float]] = {}
        for name, gib in self.peak:
            if gib >= SMALL:
                groups.setdefault(name, []).append(gib)
        ordered = sorted(groups.items(), key=lambda group: -sum(group[1]))
        named = ", ".join(
            f"{name} {' + '.join(f'{gib:.1f}' for gib in sorted(each, reverse=True))}"
            for name, each in ordered
        )
        return f"{_sum(self.peak):.1f} GiB ({named or 'nothing of size'})"

    def ran_out(self, log: Path, start: int = 0) -> bool:
        """Whether the job failed because memory ran out: its log says so after byte ``start``, or
        the kernel has ended a process for that reason since this object was made."""
        with open(log, "rb") as stream:
            stream.seek(start)
            said = stream.read().decode("utf-8", errors="replace")
        if any(CAUSES.search(line) for line in said.splitlines()[-TAIL:]):
            return True
        return killed_by_kernel() > self.killed_before


def killed_by_kernel(counters: Path = _KERNEL) -> int:
    """Processes of any control group that Linux has ended since it started, as memory ran out."""
    if not counters.is_file():
        return 0
    rows = (row.split() for row in counters.read_text(encoding="utf-8").splitlines())
    return int(dict(rows).get("oom_kill", 0))


def _use(process: psutil.Process) -> tuple[str, float] | None:
    """A process's name and its memory in GiB; None: it has ended."""
    try:
        rows = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        title = process.cmdline()[0].rsplit("/", 1)[-1]
    except (OSError, psutil.Error, IndexError):
        return None
    name = title.split(" ")[0].removeprefix("ray::").split(".")[0]
    kilobytes = {row.split(":")[0]: row.split()[1] for row in rows[1:]}
    return name, int(kilobytes["Pss"]) * 1024 / GIB


def _sum(found: list[tuple[str, float]]) -> float:
    return sum(gib for _, gib in found)
