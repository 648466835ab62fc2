"""Whole tensors from rank files into safetensors files, in one pass over the former."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from criticflow.checkpoint.layout import StoredTensor
from criticflow.checkpoint.shards import RankFile, Shards
from criticflow.checkpoint.stream import Use, scan
from criticflow.checkpoint.writer import Output, SafetensorsFiles


def transfer(
    shards: Shards,
    stored: Iterable[StoredTensor],
    outputs: Sequence[Output],
    files: SafetensorsFiles,
    extra: Sequence[Use] = (),
    progress: bool = False,
) -> dict[RankFile, str]:
    """Write ``outputs``; check all of ``stored``, whether written or not, and that copies agree.

    Args:
        extra: Further uses of the same pass.
        progress: Show a bar on stderr, in bytes of the rank files.

    Returns:
        SHA-256 of each rank file.

    Raises:
        UserError: see :func:`criticflow.checkpoint.stream.scan`.
    """
    written = {output.source.name: output for output in outputs}
    uses = list(extra)
    for tensor in stored:
        output = written.get(tensor.name)
        for piece in tensor.pieces:
            uses.append(Use(piece, sink=files.sink(output, piece) if output else None))
        uses += [Use(copy, twin=piece) for copy, piece in tensor.replicas]
    total = sum(file.size for file in shards.files)
    lock = threading.Lock()
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="reading shards", disable=not progress
    ) as bar:

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        return scan(uses, shards.files, advance)
