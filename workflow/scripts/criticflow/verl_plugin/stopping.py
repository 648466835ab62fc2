"""Stopping between two steps, with a checkpoint, so that the next attempt loses nothing.

Training stops after a step when the file ``stop`` lies in ``trainer.default_local_dir`` (whoever
started the training puts it there), or when Slurm would end the job before another step and a
checkpoint are sure to fit (``SLURM_JOB_END_TIME``, seconds since the epoch). The file then has the
reason.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STOP = "stop"
MARGIN = 120.0
"""Seconds that a checkpoint may take."""


class StoppedEarly(RuntimeError):
    """Training ended before its last step, with a checkpoint of the step before."""


class EarlyStop:
    """Asked before each step.

    Args:
        directory: ``trainer.default_local_dir``.
    """

    def __init__(self, directory: Path) -> None:
        self.file = directory / STOP
        self.asked_at: float | None = None

    def reason(self) -> str | None:
        """Why training should stop now, if it should; left in the file too.

        The first step of an attempt is always made: before it there is nothing to save.
        """
        now = time.time()
        before, self.asked_at = self.asked_at, now
        if before is None:
            return None
        end = os.environ.get("SLURM_JOB_END_TIME")
        if self.file.exists():
            reason = "as it was asked to"
        elif end and float(end) - now < 2 * (now - before) + MARGIN:
            reason = "because Slurm's time limit is near"
        else:
            return None
        self.file.write_text(reason, encoding="utf-8")
        return reason
