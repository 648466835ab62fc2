"""Slurm, where there is one: whether jobs of a study could be submitted."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from importlib.util import find_spec
from typing import NamedTuple

from criticflow.doctor.finding import Finding, ok, warning, wrong
from criticflow.runtime.slurm import job_id

FIRST_LOOK = 40
"""``slurm-init-seconds-before-status-checks`` of the profile; a job must be
known three times as long."""


class Partition(NamedTuple):
    """A kind of nodes, as ``sinfo`` lists them."""

    name: str
    gres: str
    """``gpu:h100:8``; ``(null)`` without GPUs."""
    limit: str
    memory: int
    """MB of the smallest node."""

    @property
    def gpus(self) -> int:
        """Of one node, of any type."""
        kinds = re.findall(r"gpu(?::[^:,(]+)?:(\d+)", self.gres)
        return sum(map(int, kinds))


def parse_partitions(text: str) -> list[Partition]:
    """What ``sinfo --format '%P|%G|%l|%m'`` prints."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 3)
    return [
        Partition(name.rstrip("*"), gres, limit, int(memory.rstrip("+")))
        for name, gres, limit, memory in rows
    ]


def judge_slurm(
    partitions: list[Partition], gpus: int, memory: float | None, plugin: bool
) -> list[Finding]:
    """Whether some partition's nodes have what one training takes.

    Args:
        gpus: of one training job.
        memory: GiB of its main memory; None: not known.
        plugin: whether Snakemake's executor for Slurm is installed.
    """
    found = []
    if not plugin:
        mend = "make setup, or pip install snakemake-executor-plugin-slurm as the lock names it"
        found.append(wrong("Slurm", "Snakemake's executor for it is not installed", mend))
    fit = [one for one in partitions if one.gpus >= gpus]
    listed = ", ".join(f"{one.name} ({one.gpus} GPUs, {one.limit})" for one in partitions)
    if not fit:
        mend = "lower resources.gpu; or a partition that sinfo does not show you (ask the site)"
        return [*found, wrong("Slurm", f"no node has {gpus} GPUs: {listed or 'no nodes'}", mend)]
    roomy = [one for one in fit if memory is None or one.memory / 1024 >= memory]
    if not roomy:
        said = f"the largest node has {max(one.memory for one in fit) / 1024:.0f} GiB"
        mend = "fewer GPUs a training (resources.gpu): every rank loads the model"
        return [*found, wrong("Slurm", f"{said}, a training takes {memory:.0f}", mend)]
    names = ", ".join(one.name for one in roomy)
    return [*found, ok("Slurm", f"{listed}; trainings fit {names}")]


def judge_memory_of_jobs(text: str) -> Finding | None:
    """Whether the controller remembers ended jobs long enough; None: it does not say.

    Args:
        text: what ``scontrol show config`` prints.
    """
    told = re.search(r"MinJobAge\s*=\s*(\d+)", text)
    if told and int(told[1]) < 3 * FIRST_LOOK:
        mend = f"slurm-init-seconds-before-status-checks: {max(1, int(told[1]) // 3)} in site.yaml"
        return warning("Slurm", f"forgets a job {told[1]} seconds after its end", mend)
    return None


def elsewhere() -> bool:
    """Whether jobs run on other machines: Slurm answers, and this is none of its jobs."""
    return job_id() is None and _partitions() is not None


@functools.cache
def _partitions() -> str | None:
    """What sinfo lists; None: it is not here, or gets no answer."""
    if shutil.which("sinfo") is None:
        return None
    return _output("sinfo", "--noheader", "--format", "%P|%G|%l|%m")


def own_slurm(gpus: int, memory: float | None) -> list[Finding]:
    """This machine's Slurm; a line that there is none, where there is none."""
    if shutil.which("sinfo") is None:
        return [ok("Slurm", "not here")]
    if (partitions := _partitions()) is None:
        mend = "sinfo by hand says why; nothing to mend where no cluster is to be used"
        return [warning("Slurm", "its programs are here, its controller does not answer", mend)]
    plugin = find_spec("snakemake_executor_plugin_slurm") is not None
    found = judge_slurm(parse_partitions(partitions), gpus, memory, plugin)
    if jobs := judge_memory_of_jobs(_output("scontrol", "show", "config") or ""):
        found.append(jobs)
    if job := job_id():
        found.append(ok("Slurm", f"this is job {job}"))
    return found


def _output(*command: str) -> str | None:
    """What a program prints; None: it fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else done.stdout
