"""Whole tensors from rank files into safetensors files, in one pass over the former."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

from tqdm import tqdm

from criticflow.checkpoint.layout import StoredTensor
from criticflow.checkpoint.shards import Shards
from criticflow.checkpoint.stream import Use, scan
from criticflow.checkpoint.writer import Output, SafetensorsFiles


class Transfer:
    """A transfer under way in the background; leaving the ``with`` block early stops it."""

    def __init__(
        self,
        shards: Shards,
        stored: Iterable[StoredTensor],
        outputs: Sequence[Output],
        files: SafetensorsFiles,
        extra: Sequence[Use] = (),
        progress: bool = False,
    ) -> None:
        """Write ``outputs``; check all of ``stored``, written or not, and that copies agree.

        Args:
            extra: Further uses of the same pass.
            progress: Show a bar on stderr, in bytes of the rank files.
        """
        written = {output.source.name: output for output in outputs}
        uses = list(extra)
        for tensor in stored:
            output = written.get(tensor.name)
            for piece in tensor.pieces:
                uses.append(Use(piece, sink=files.sink(output, piece) if output else None))
            uses += [Use(copy, twin=piece) for copy, piece in tensor.replicas]
        self._lock, self._stopped = threading.Lock(), False
        self._bar = tqdm(
            total=sum(record.size for file in shards.files for record in file.records),
            unit="B",
            unit_scale=True,
            desc="reading shards",
            disable=not progress,
        )
        self._pool = ThreadPoolExecutor(1)
        self._job = self._pool.submit(scan, uses, shards.files, self._advance)

    def _advance(self, count: int) -> None:
        if self._stopped:
            raise CancelledError
        with self._lock:
            self._bar.update(count)

    def result(self) -> None:
        """Wait for the end.

        Raises:
            UserError: see :func:`criticflow.checkpoint.stream.scan`.
        """
        self._job.result()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._pool.shutdown()
        self._bar.close()
