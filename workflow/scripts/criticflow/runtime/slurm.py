"""Questions to Slurm: which job this is, when it ends, its nodes, whether another one runs; and
steps of this job on its nodes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

# States in which a job's processes may still run.
_RUNNING = "RUNNING,COMPLETING,SUSPENDED,STOPPED"
_STEP = "criticflow-"
"""Beginning of the names of steps on single nodes."""
_KEPT = {"SLURM_CONF", "SLURM_JOB_END_TIME"}
"""Variables that say nothing of a step."""


def job_id() -> str | None:
    """The job that this process belongs to; None outside of Slurm."""
    return os.environ.get("SLURM_JOB_ID")


def end_time() -> float | None:
    """When Slurm will end the job that this process belongs to, seconds since the epoch.

    None outside of Slurm, without a time limit, or when Slurm does not answer. Slurm 23.02 and
    newer set ``SLURM_JOB_END_TIME`` for their jobs; older ones are asked.
    """
    if told := os.environ.get("SLURM_JOB_END_TIME"):
        return float(told)
    job = job_id()
    done = _squeue(job, "%e") if job else None
    try:
        return datetime.fromisoformat(done.stdout.strip()).timestamp() if done else None
    except ValueError:  # no limit, or no such job
        return None


def runs(job: str) -> bool | None:
    """Whether a job's processes may still run; None if Slurm does not answer."""
    done = _squeue(job, "%T", "--states", _RUNNING)
    if done is None:
        return None
    if done.returncode:
        return False if "Invalid job id" in done.stderr else None  # forgotten, or no answer
    return bool(done.stdout.strip())


def node_name() -> str:
    """What Slurm calls this node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def node_addresses() -> dict[str, str]:
    """IPv4 addresses of the nodes of this job, by name, as Slurm itself reaches them.

    Empty outside of Slurm. An address is empty where Slurm's name for it has none.
    """
    # A step of one task is told that the job has one node.
    asked = _squeue(job, "%N") if (job := job_id()) else None
    if asked is None or not (nodes := asked.stdout.strip()):
        return {}
    command = ["scontrol", "--oneliner", "show", "nodes", nodes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.findall(r"^NodeName=(\S+) .*?\bNodeAddr=(\S+)", done.stdout, re.MULTILINE)
    return {name: _resolved(address) for name, address in found}


def _resolved(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return ""


def step_command(node: str, command: Sequence[str]) -> list[str]:
    """A command as a step of this job on one of its nodes, with all that the job has there.

    It overlaps with the step that this process belongs to, which has it all already.
    """
    step = ["srun", "--jobid", str(job_id()), "--nodes=1", "--ntasks=1", f"--nodelist={node}"]
    step += ["--overlap", "--mem=0", "--cpu-bind=none", f"--job-name={_STEP}{node}"]
    return [*step, *command]


def outside_of_step(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what the present step was started with: ``srun`` takes it for what a
    further step asks for."""
    steps = ("SLURM_", "SRUN_", "SBATCH_", "PMI")
    return {k: v for k, v in env.items() if k in _KEPT or not k.startswith(steps)}


def cancel_steps(nodes: Collection[str]) -> None:
    """End what is left of steps of this job on these nodes."""
    job = str(job_id())
    command = ["squeue", "--noheader", "--steps", "--jobs", job, "--format", "%i %j"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    names = {f"{_STEP}{node}" for node in nodes}
    steps = [line.split()[0] for line in done.stdout.splitlines() if line.split()[-1] in names]
    if steps:
        cancel = ["scancel", "--signal=KILL", *steps]
        subprocess.run(cancel, capture_output=True, timeout=60, check=False)


def _squeue(job: str, column: str, *more: str) -> subprocess.CompletedProcess[str] | None:
    """squeue's answer about one job; None if there is no squeue or it does not answer."""
    command = ["squeue", "--noheader", "--jobs", job, "--format", column, *more]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
