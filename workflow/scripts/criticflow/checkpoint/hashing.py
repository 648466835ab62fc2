"""SHA-256 of large files on several cores. Imports no torch, so that it can begin before that."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from criticflow.errors import UserError

_BLOCK_BYTES = 512 << 20
_CHUNK_BYTES = 4 << 20


@contextmanager
def hashing(paths: Sequence[Path]) -> Iterator[Callable[[], list[str]]]:
    """Hash whole files in the background; what is yielded waits for the results, in order.

    Leaving the block ends the work. One core is left to what goes on beside it.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as pool:
        jobs = [pool.submit(_sha256, path, 0, path.stat().st_size, stopped) for path in paths]
        try:
            yield lambda: [job.result() for job in jobs]
        finally:
            stopped.set()


def block_hashes(path: Path) -> list[str]:
    """SHA-256 of each 512 MiB of a file, in order; a smaller file has one, of the whole.

    Blocks, so that all cores work on one large file.
    """
    size = path.stat().st_size
    starts = range(0, max(size, 1), _BLOCK_BYTES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(_sha256, path, start, min(start + _BLOCK_BYTES, size)) for start in starts
        ]
        return [job.result() for job in jobs]


def _sha256(path: Path, start: int, end: int, stopped: threading.Event | None = None) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, end - start)))
    with open(path, "rb", buffering=0) as stream:
        stream.seek(start)
        while start < end:
            if stopped is not None and stopped.is_set():
                raise CancelledError
            count = stream.readinto(buffer[: end - start])
            if not count:
                raise UserError(f"{path} became shorter while it was read")
            digest.update(buffer[:count])
            start += count
    return digest.hexdigest()
