"""Questions to Slurm: which job this is, when it ends, whether another one runs."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime

# States in which a job's processes may still run.
_RUNNING = "RUNNING,COMPLETING,SUSPENDED,STOPPED"


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


def _squeue(job: str, column: str, *more: str) -> subprocess.CompletedProcess[str] | None:
    """squeue's answer about one job; None if there is no squeue or it does not answer."""
    command = ["squeue", "--noheader", "--jobs", job, "--format", column, *more]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
