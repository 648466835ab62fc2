"""The GPUs of this machine as ``nvidia-smi`` describes them: driver, generation, memory."""

from __future__ import annotations

import csv
import io
import math
import subprocess
from typing import NamedTuple

from criticflow.errors import UserError
from criticflow.runtime.devices import visible

FIELDS = ("uuid", "name", "driver_version", "compute_cap", "memory.total", "memory.used")
"""What ``nvidia-smi --query-gpu`` is asked for, in this order."""


class Gpu(NamedTuple):
    """One GPU."""

    uuid: str
    name: str
    driver: str
    capability: tuple[int, int]
    """Its generation as CUDA counts them: (8, 0) is an A100, (9, 0) an H100."""
    total_gib: float
    used_gib: float
    """By anybody's processes, now; not a number where the driver does not tell, as of GPUs that
    share the machine's memory."""

    @property
    def free_gib(self) -> float:
        return self.total_gib - self.used_gib


def parse_gpus(text: str) -> list[Gpu]:
    """Rows of :data:`FIELDS`, as ``--format=csv,noheader,nounits`` writes them; memory in MiB.

    Raises:
        UserError: a row is no GPU's.
    """
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        try:
            uuid, name, driver, capability, total, used = (cell.strip() for cell in row)
            major, minor = map(int, capability.split("."))
            gpu = Gpu(uuid, name, driver, (major, minor), _gib(total), _gib(used))
        except ValueError:
            raise UserError(
                f"nvidia-smi describes a GPU as {', '.join(row)!r}, which lacks one of "
                f"{', '.join(FIELDS)}: a newer driver tells them"
            ) from None
        found.append(gpu)
    return found


def _gib(mebibytes: str) -> float:
    return int(mebibytes) / 1024 if mebibytes.isdecimal() else math.nan


def installed_gpus() -> list[Gpu]:
    """All GPUs of the machine; none where there is no ``nvidia-smi``.

    Raises:
        UserError: there is one, and it fails.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        raise UserError("nvidia-smi does not answer: the driver hangs, restart it") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        if said and "No devices were found" in said[-1]:
            return []
        raise UserError(f"nvidia-smi fails: {' '.join(said[-2:])}: load or update the driver")
    return parse_gpus(done.stdout)


def visible_gpus() -> list[Gpu]:
    """Those of them that ``CUDA_VISIBLE_DEVICES`` leaves to this process."""
    allowed = [device.identity for device in visible()]
    return [gpu for gpu in installed_gpus() if gpu.uuid in allowed]
