"""Reads all bytes of rank files once, in chunks: checks checksums and NaN, and hands them on."""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from criticflow.checkpoint.layout import Piece
from criticflow.checkpoint.shards import RankFile
from criticflow.errors import UserError

# Small enough for the processor's cache: every chunk is read several times.
CHUNK_BYTES = 4 << 20

# Called with elements (1-D, of the stored type) and the position of the first within the piece.
Sink = Callable[[torch.Tensor, int], None]


@dataclass(frozen=True)
class Use:
    """What is done with the bytes of one piece: written by ``sink``, or compared with ``twin``."""

    piece: Piece
    sink: Sink | None = None
    twin: Piece | None = None


def scan(uses: Sequence[Use], files: Sequence[RankFile], progress: Callable[[int], None]) -> None:
    """Read all records of every file once, from first to last, and serve all ``uses``.

    Memory: two chunks a thread, whatever the size of the files.

    Args:
        progress: Called with the number of bytes read since the last call.

    Raises:
        UserError: a checksum does not match, a value is not finite, a copy differs from its twin,
            a file became shorter.
    """
    by_file: dict[RankFile, list[Use]] = {file: [] for file in files}
    for use in uses:
        by_file[use.piece.file].append(use)
    stopped = threading.Event()

    def advance(count: int) -> None:
        if stopped.is_set():
            raise CancelledError
        progress(count)

    # All cores are at work already: torch's own threads would only wait for each other.
    pool = ThreadPoolExecutor(
        min(len(files), os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,)
    )
    with pool:
        jobs = [pool.submit(_scan_file, file, by_file[file], advance) for file in files]
        try:
            for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                job.result()
        finally:
            stopped.set()  # after a mistake, the other files need not be read to their ends


def _scan_file(file: RankFile, uses: list[Use], progress: Callable[[int], None]) -> None:
    by_record: dict[str, list[Use]] = {}
    for use in uses:
        by_record.setdefault(use.piece.local.record, []).append(use)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with open(file.path, "rb", buffering=0) as stream:
        for record in file.records:
            here = by_record.get(record.name, [])
            checksum, end = 0, record.start + record.size
            stream.seek(record.start)
            for position in range(record.start, end, CHUNK_BYTES):
                chunk = buffer[: min(CHUNK_BYTES, end - position)]
                if stream.readinto(chunk) != len(chunk):
                    raise UserError(f"{file.path} was cut short while it was read: copy it again")
                checksum = zlib.crc32(chunk, checksum)
                for use in here:
                    _serve(use, chunk, position)
                progress(len(chunk))
            if record.crc is not None and checksum != record.crc:
                names = ", ".join(use.piece.local.name for use in here) or record.name
                raise UserError(
                    f"{file.path} is corrupt: the bytes of {names} do not match their checksum: "
                    "copy the file again or use another checkpoint"
                )


def _serve(use: Use, chunk: memoryview, position: int) -> None:
    """Hand the part of ``use``'s piece that lies in ``chunk`` (at file ``position``) on."""
    local, file = use.piece.local, use.piece.file
    begin = max(local.start, position)
    end = min(local.start + local.nbytes, position + len(chunk))
    if begin >= end:
        return
    data = chunk[begin - position : end - position]
    values = torch.frombuffer(data, dtype=local.dtype)
    where = f"{local.name} in {file.path} (rank {file.rank})"
    require_finite(values, where)
    if use.sink is not None:
        use.sink(values, (begin - local.start) // local.dtype.itemsize)
    if use.twin is not None:
        twin = use.twin
        with open(twin.file.path, "rb") as stream:
            other = os.pread(stream.fileno(), len(data), twin.local.start + begin - local.start)
        if data != other:
            raise UserError(
                f"{where} differs from its copy on rank {twin.file.rank}: the ranks were not in "
                "step, use another checkpoint"
            )


def require_finite(values: torch.Tensor, where: str) -> None:
    """Raise :class:`UserError` if a floating-point tensor holds a NaN or an infinity."""
    if values.is_floating_point() and values.numel():
        # Extremes propagate NaN, and are many times faster than torch.isfinite.
        low, high = torch.aminmax(values)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UserError(
                f"{where} has a value that is NaN or infinite: training went wrong, use an earlier "
                "checkpoint"
            )
