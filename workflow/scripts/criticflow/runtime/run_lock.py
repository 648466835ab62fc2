"""One job at a time works in a run's directory: a lock that names its owner.

Snakemake submits a job again after it was killed itself, while the first one goes on in Slurm. So a
training job holds ``DIRECTORY.lock``, beside the directory, which may be emptied under it:

- the kernel's ``flock``, which the owner's children inherit: it is free when the last of them has
  ended, for whatever reason. It alone decides where every possible owner runs under this kernel: on
  a disk of this machine, or where the owner has run since this machine was started, in whatever
  container and under whatever host name;
- in the file the owner's host, process, start of the machine and Slurm job. They are what a waiting
  job tells the user, and on a shared disk, whose nodes may not see each other's ``flock``, they
  decide: nothing is taken from an owner of another machine unless Slurm says that it has ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from criticflow.errors import UserError
from criticflow.logs import progress
from criticflow.runtime import slurm

POLL = 5.0
"""Seconds between two looks at a lock that somebody else holds."""
PATIENCE = 600.0
"""Seconds that Slurm may give no answer, as when its controller restarts."""
LOCAL = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs"}
LOCAL |= {"reiserfs", "tmpfs", "xfs", "zfs"}
"""File systems of one machine. ``flock`` on them reaches all who can see the file."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    pid: int
    started: float
    """Seconds since the epoch: a later process may get the same number."""
    slurm_job: str | None
    boot: str | None = None
    """The start of the machine, which all containers on it share."""

    def __str__(self) -> str:
        job = f" (Slurm job {self.slurm_job})" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}"

    @property
    def how_to_stop(self) -> str:
        """The command that ends it."""
        return f"scancel {self.slurm_job}" if self.slurm_job else f"kill {self.pid}"

    @property
    def how_to_look(self) -> str:
        """The command that shows whether it runs."""
        return f"squeue --jobs {self.slurm_job}" if self.slurm_job else f"ps {self.pid}"

    def lives(self) -> bool | None:
        """Whether it still works; None if that cannot be told from here."""
        here = self.host == socket.gethostname()
        if here and _started(self.pid, self.started):
            return True
        if self.slurm_job and self.slurm_job != slurm.job_id():
            return slurm.runs(self.slurm_job)
        # A requeued job keeps its number, and runs once at a time.
        return False if self.slurm_job or (here and self.boot == boot()) else None


@contextmanager
def run_lock(directory: Path) -> Iterator[int]:
    """Own ``directory`` while the block runs; wait for a living owner first, and say so.

    It waits rather than fails, so that the study finishes without help: the job that waited then
    finds the work done.

    Yields:
        A file descriptor for the children that work in the directory (``pass_fds``).

    Raises:
        UserError: nobody can tell whether the owner still lives, or the lock cannot be read.
    """
    path = lock_path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as stream:
        _acquire(stream, path)
        try:
            yield stream.fileno()
        finally:
            _write(stream, "")


def lock_path(directory: Path) -> Path:
    """The lock of ``directory``."""
    return directory.with_name(f"{directory.name}.lock")


def owner(directory: Path) -> Owner | None:
    """Who holds ``directory``, or died with it; None: nobody.

    Raises:
        UserError: the lock cannot be read.
    """
    path = lock_path(directory)
    if not path.exists():
        return None
    with open(path, encoding="utf-8") as stream:
        return _read(stream, path)


def living_owner(directory: Path) -> Owner | None:
    """Who works in ``directory`` now, as far as can be told."""
    try:
        other = owner(directory)
    except UserError:
        return None  # the job that wants the lock says what is wrong
    return other if other and other.lives() else None


def _acquire(stream: IO[str], path: Path) -> None:
    told = None
    answer = time.monotonic()  # when it was last known whether the owner lives
    while True:
        free = _flock(stream)
        try:
            other = _read(stream, path)
        except UserError:
            if free is not False:
                raise
            other = None  # its owner is just writing it
        nobody = free is not False if other is None else free and kernel_decides(path, other)
        lives = other.lives() if other and not nobody and free is not False else None
        if nobody or lives is False:
            _write(stream, json.dumps(asdict(_me())))
            return
        if free:
            _unlock(stream)  # the owner named in the file may still live
        if lives is not None or free is False:
            answer = time.monotonic()
        elif not other.slurm_job or time.monotonic() - answer > PATIENCE:
            raise UserError(
                f"{path} is held by {other}, and nobody here can tell whether that still runs, "
                f"since {path.parent} is on a disk that machines may share: look on {other.host} "
                f"({other.how_to_look}); if it does not run, delete the file and run again"
            )
        if other != told and other is not None:
            where = path.with_suffix("")
            progress(f"waiting for {other}, which works in {where}; {other.how_to_stop} ends it")
            told = other
        time.sleep(POLL)


def kernel_decides(path: Path, other: Owner) -> bool:
    """Whether ``other`` holds nothing if this kernel says that the lock is free."""
    return (other.boot is not None and other.boot == boot()) or on_local_disk(path)


def boot() -> str | None:
    """What Linux calls this start of the machine; None elsewhere."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def on_local_disk(path: Path) -> bool:
    """Whether no other machine sees the file system of ``path``."""
    place = path.resolve()
    kinds = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    mounts = [folder for folder in (place, *place.parents) if folder in kinds]
    return bool(mounts) and kinds[mounts[0]] in LOCAL


def _flock(stream: IO[str]) -> bool | None:
    """Take the lock; False if a living process has it, None where there is no ``flock``."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None  # a file system without it
    return True


def _unlock(stream: IO[str]) -> None:
    with suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_UN)


def _read(stream: IO[str], path: Path) -> Owner | None:
    stream.seek(0)
    text = stream.read()
    try:
        return Owner(**json.loads(text)) if text else None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} names no owner: delete it if no job trains there") from error


def _write(stream: IO[str], text: str) -> None:
    stream.seek(0)
    stream.truncate()
    stream.write(text)
    stream.flush()
    os.fsync(stream.fileno())


def _me() -> Owner:
    started = psutil.Process().create_time()
    return Owner(socket.gethostname(), os.getpid(), started, slurm.job_id(), boot())


def _started(pid: int, when: float) -> bool:
    """Whether the process that started then still runs. A clock that is set moves it a little."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - when) < 2
    except psutil.NoSuchProcess:
        return False
