"""File systems of results, models and compile caches: room, sharing, locks."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from criticflow.doctor.finding import Finding, ok, warning, wrong
from criticflow.files import free_space

GB = 10**9
SHARED = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "ceph", "pvfs", "afs", "9p", "fuse.")
"""How types of file systems begin that several machines see at once."""
CACHE_BYTES = 2 * GB
"""What compiled kernels and graphs of a model take, with room to write."""


class Cache(NamedTuple):
    """A folder in which libraries keep what they compiled."""

    what: str
    variable: str
    """That moves it."""
    default: str


CACHES = (
    Cache("vLLM's cache", "VLLM_CACHE_ROOT", "~/.cache/vllm"),
    Cache("torch's cache", "TORCHINDUCTOR_CACHE_DIR", "/tmp"),
    Cache("triton's cache", "TRITON_CACHE_DIR", "~/.triton/cache"),
)


class Place(NamedTuple):
    """A folder's file system."""

    path: Path
    kind: str
    """As the kernel calls it: ``ext4``, ``nfs4``, ``overlay``."""
    free: int
    """Bytes."""
    locks: bool
    """Whether files can be locked there (``flock``)."""
    writable: bool

    @property
    def shared(self) -> bool:
        return self.kind.startswith(SHARED)


def place(path: Path | str) -> Place:
    """What a folder, which need not exist yet, lies on. Locks are tried with a file."""
    folder = Path(path).expanduser().absolute()
    while not folder.is_dir():
        folder = folder.parent
    locks = writable = True
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                locks = False
    except OSError:
        locks = writable = False
    return Place(Path(path).expanduser(), _kind(folder), free_space(folder), locks, writable)


def _kind(folder: Path) -> str:
    mounted = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    resolved = folder.resolve()
    return next(
        (mounted[path] for path in (resolved, *resolved.parents) if path in mounted), "unknown"
    )


def judge_results(found: Place, needed: int) -> Finding:
    """Whether results and checkpoints have room, and can be locked.

    Args:
        needed: bytes of the checkpoints that lie there at a time; 0: not known.
    """
    said = f"{found.path} ({found.kind}), {found.free / GB:.0f} GB free"
    if not found.writable:
        return wrong("results", f"{said}: nothing can be written", "--directory of your own")
    if found.free < needed:
        return wrong(
            "results",
            f"{said}, checkpoints take {needed / GB:.0f}",
            "make room, or start with --directory on a larger file system",
        )
    if not found.locks:
        return warning(
            "results",
            f"{said}, without file locks: two trainings of one run would not notice each other",
            "start one Snakemake at a time, or use a file system with flock",
        )
    return ok("results", said)


def judge_cache(cache: Cache, found: Place) -> Finding:
    """Whether a compile cache is usable, and its machine's own."""
    said = f"{found.path} ({found.kind}), {found.free / GB:.0f} GB free"
    mend = f"export {cache.variable}=/tmp/$USER/{cache.variable.lower()}"
    if not found.writable:
        return wrong(cache.what, f"{said}: nothing can be written", mend)
    if found.free < CACHE_BYTES:
        return wrong(cache.what, f"{said}: too little", mend)
    if found.shared:
        return warning(cache.what, f"{said}: several machines would compile into it at once", mend)
    return ok(cache.what, said)


def own_caches(
    caches: Iterable[Cache] = CACHES, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """All compile caches of this process."""
    return [
        judge_cache(cache, place(environment.get(cache.variable) or cache.default))
        for cache in caches
    ]
