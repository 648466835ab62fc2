"""What a job asks Slurm about itself."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime


def end_time() -> float | None:
    """When Slurm will end the job that this process belongs to, seconds since the epoch.

    None outside of Slurm, without a limit, or without an answer. Slurm tells its jobs in
    ``SLURM_JOB_END_TIME`` since 23.02; older ones are asked.
    """
    if told := os.environ.get("SLURM_JOB_END_TIME"):
        return float(told)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return datetime.fromisoformat(done.stdout.strip()).timestamp()
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
