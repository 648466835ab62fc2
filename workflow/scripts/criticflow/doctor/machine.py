"""CPUs and memory."""

from __future__ import annotations

import os

from criticflow.doctor.finding import Finding, ok, warning, wrong
from criticflow.runtime import memory

GIB = 2**30


def judge_cpus(seen: int, allowed: int, needed: int) -> Finding:
    """Whether there are as many CPUs as a training has processes that compute.

    Args:
        seen: the machine's.
        allowed: those that this process may run on.
        needed: by the actors of verl and of its queue; 0: the study runs on the CPU, with as many
            as there are.
    """
    said = f"{seen}, of them {allowed} for this process" if allowed < seen else f"{seen}"
    if allowed < needed:
        return warning(
            "CPUs",
            f"{said}; a training's processes keep {needed} busy: steps will be slow",
            "a larger machine; under Slurm: set-resources: train_run: cpus_per_gpu in site.yaml",
        )
    return ok("CPUs", said)


def own_cpus() -> tuple[int, int]:
    """The machine's CPUs, and those that this process may run on."""
    return os.cpu_count() or 1, len(os.sched_getaffinity(0))


def judge_memory(available: float, needed: float | None) -> Finding:
    """Whether a training's main memory is there.

    Args:
        available: GiB, with what the control groups leave.
        needed: GiB of the largest training; None: not known.
    """
    said = f"{available:.0f} GiB free"
    if needed is None:
        return ok("memory", said)
    said += f", the largest training takes {needed:.0f}"
    if available < needed:
        return wrong(
            "memory", said, f"end other programs, or ask Slurm for --mem={needed:.0f}G or more"
        )
    return ok("memory", said)


def own_memory() -> float:
    """GiB that this process can still take."""
    return memory.available() / GIB
