"""Stops a training between two steps, with a checkpoint, so that the next attempt loses nothing.

Training stops after a step when the file ``stop`` lies in ``trainer.default_local_dir`` (whoever
started the training puts it there), or when Slurm would end the job before another step and a
checkpoint are sure to fit (``SLURM_JOB_END_TIME``, seconds since the epoch). The file then has the
reason.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from criticflow.files import read_json, write_json

STOP = "stop"
LAST_SAVE = "last_save.json"
"""Size and seconds of the newest checkpoint, for this attempt and the next."""
MARGIN = 120.0
"""Seconds between the end of a checkpoint and Slurm's limit."""
SPEED = 100e6
"""Bytes a second that are expected of a disk before the first checkpoint."""
LONGER = 1.5
"""A checkpoint may take so many times as long as the last one."""


class StoppedEarly(RuntimeError):
    """Training ended before its last step, with a checkpoint of the step before."""


class EarlyStop:
    """Asked before each step.

    Args:
        directory: ``trainer.default_local_dir``.
        checkpoint_bytes: expected size of the first checkpoint.
    """

    def __init__(self, directory: Path, checkpoint_bytes: int = 0) -> None:
        self.file, self.last_save = directory / STOP, directory / LAST_SAVE
        self.asked_at: float | None = None
        self.save_seconds = checkpoint_bytes / SPEED
        if self.last_save.is_file():
            self.save_seconds = read_json(self.last_save)["seconds"]

    def saved(self, checkpoint: Path, seconds: float) -> None:
        """Remember what a checkpoint of this run's size took."""
        size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
        self.save_seconds = seconds
        write_json(self.last_save, {"bytes": size, "seconds": round(seconds, 1)})

    @property
    def margin(self) -> float:
        """Seconds before Slurm's limit at which a checkpoint must begin."""
        return LONGER * self.save_seconds + MARGIN

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
        elif end and float(end) - now < 2 * (now - before) + self.margin:
            reason = "because Slurm's time limit is near"
        else:
            return None
        self.file.write_text(reason, encoding="utf-8")
        return reason
