"""math-verify behind a hard time limit, callable from any thread."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

WORKERS = min(4, os.cpu_count() or 1)
_PACKAGES = Path(__file__).resolve().parents[2]


def equal(gold: str, answer: str) -> bool | None:
    """Whether math-verify finds the answer equal to the gold one; None if it took too long.

    Both are LaTeX in a text, best inside ``\\boxed{}``. At most :data:`WORKERS` comparisons run at
    once, in processes that are kept for the next comparison; a process that exceeds its limit is
    ended, and another is started when it is needed.

    Raises:
        RuntimeError: the worker process does not start (its error is on stderr).
    """
    with _slots:
        while True:
            try:
                worker = _idle.get_nowait()
            except queue.Empty:
                worker = _start()
            try:
                reply = _ask(worker, gold, answer)
            except BrokenPipeError:  # it died while idle: not this answer's fault
                worker.kill()
                worker.wait()
                continue
            if reply in ("0\n", "1\n"):
                _idle.put(worker)
                return reply == "1\n"
            worker.kill()
            worker.wait()
            return None


_idle: queue.LifoQueue[subprocess.Popen[str]] = queue.LifoQueue()
_slots = threading.BoundedSemaphore(WORKERS)


def _start() -> subprocess.Popen[str]:
    search = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "criticflow.tasks._math_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
    )
    if worker.stdout.readline() != "ready\n":
        raise RuntimeError(f"the math-verify worker did not start (exit code {worker.wait()})")
    return worker


def _ask(worker: subprocess.Popen[str], gold: str, answer: str) -> str:
    worker.stdin.write(json.dumps([gold, answer]) + "\n")
    worker.stdin.flush()
    return worker.stdout.readline()


def _forget() -> None:
    """After a fork the workers belong to the parent process: start with none."""
    global _idle, _slots
    _idle, _slots = queue.LifoQueue(), threading.BoundedSemaphore(WORKERS)


os.register_at_fork(after_in_child=_forget)
