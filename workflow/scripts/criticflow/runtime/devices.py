"""GPUs of a machine without a scheduler: one job at a time uses each.

A job that takes GPUs holds a lock file for each (``flock``), which its children inherit: the kernel
frees it when the last of them has ended, for whatever reason. The files lie in one place for all
studies of a user and are named after the GPUs themselves, so that studies that number them
differently use the same locks. Under Slurm a job's GPUs are Slurm's to assign.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from criticflow.errors import UserError
from criticflow.files import own_directory
from criticflow.runtime import slurm

# Not TMPDIR, which may differ between studies, nor the home, which machines may share.
FOLDER = Path(f"/tmp/criticflow-gpus-{os.getuid()}")
POLL = 2.0
"""Seconds between two looks at GPUs that others hold."""


@dataclass(frozen=True)
class Device:
    """A GPU that this process may use."""

    name: str
    """What stands for it in ``CUDA_VISIBLE_DEVICES``: a number or a UUID."""
    identity: str
    """The same for every process of the machine: its UUID, or the name where no UUID is known."""


@dataclass(frozen=True)
class Taken:
    """What a job needs to use its GPUs, and to keep them while it lives."""

    environment: dict[str, str]
    fds: list[int]


def visible() -> list[Device]:
    """GPUs that ``CUDA_VISIBLE_DEVICES`` names; without it, those that ``nvidia-smi`` lists."""
    uuids = _installed()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(len(uuids))] if named is None else named.split(",")
    devices = []
    for name in map(str.strip, names):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break  # CUDA uses those before an invalid one, as -1 is
        if name.isdecimal() and uuids and int(name) >= len(uuids):
            break
        devices.append(Device(name, _identity(name, uuids)))
    return devices


@contextmanager
def take(count: int, tell: Callable[[str], None] = print, folder: Path = FOLDER) -> Iterator[Taken]:
    """Hold ``count`` GPUs while the block runs; wait first while others hold too many.

    Who came first is served first, so that small jobs do not keep a large one waiting for ever.

    Args:
        count: 0: nothing is taken.
        tell: gets one line when there is something to wait for.
        folder: where the locks are.

    Raises:
        UserError: there are not so many GPUs here at all.
    """
    devices = visible() if count else []
    if len(devices) <= count and slurm.job_id() is not None:
        devices, count = [], 0  # those that Slurm gave this job
    if len(devices) < count:
        raise UserError(too_few(count, len(devices)))
    if not count:
        yield Taken({}, [])
        return
    own_directory(folder)
    locks = _wait(devices, count, tell, folder)
    environment = {
        "CUDA_VISIBLE_DEVICES": ",".join(device.name for device in locks),
        # As nvidia-smi counts them, for all jobs alike.
        "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    }
    try:
        yield Taken(environment, [stream.fileno() for stream in locks.values()])
    finally:
        _release(locks)


def too_few(asked: int, found: int) -> str:
    """What to do where a job asks for more GPUs than this machine has."""
    where = "CUDA_VISIBLE_DEVICES names" if "CUDA_VISIBLE_DEVICES" in os.environ else "there are"
    return (
        f"resources.gpu: a training job takes {asked} GPUs, and {where} {found} on this machine: "
        "lower resources.gpu, or run on a larger machine or a cluster"
    )


def _wait(
    devices: Sequence[Device], count: int, tell: Callable[[str], None], folder: Path
) -> dict[Device, IO[str]]:
    """Locks of ``count`` devices, in a queue with all who may use the same ones."""
    identities = "\n".join(sorted(device.identity for device in devices))
    queue = folder / f"queue-{hashlib.sha256(identities.encode()).hexdigest()[:16]}"
    with open(queue, "a", encoding="utf-8") as first:
        told = False
        while True:
            if _lock(first):
                free = _free(devices, folder)
                _release(dict(list(free.items())[count:]))
                if len(free) >= count:
                    return dict(list(free.items())[:count])
                _release(free)
            if not told:
                tell(f"waiting for {count} of {len(devices)} GPUs: other jobs hold them")
                told = True
            time.sleep(POLL)


def _free(devices: Sequence[Device], folder: Path) -> dict[Device, IO[str]]:
    """Locks of the devices that nobody else holds."""
    locks = {}
    for device in devices:
        path = folder / f"{device.identity.replace('/', '_')}.lock"
        stream = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if _lock(stream):
            locks[device] = stream
        else:
            stream.close()
    return locks


def _lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.utime(stream.fileno())  # some systems clear away old files in /tmp
    return True


def _release(locks: dict[Device, IO[str]]) -> None:
    """Give up this process's part; a child that inherited a lock still has it."""
    for stream in locks.values():
        stream.close()


def _identity(name: str, uuids: Sequence[str]) -> str:
    if name.isdecimal():
        return uuids[int(name)] if uuids else name
    # CUDA takes the beginning of a UUID too.
    return next((uuid for uuid in uuids if uuid.startswith(name)), name)


def _installed() -> list[str]:
    """UUIDs of all GPUs, by number; empty where there is no ``nvidia-smi`` or no GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    # GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-...), and below it its parts (MIG), indented.
    return re.findall(r"^GPU \d+: .*\(UUID: (\S+)\)", done.stdout, re.MULTILINE)
