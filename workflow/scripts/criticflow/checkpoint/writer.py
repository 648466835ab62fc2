"""Safetensors files written in place, piece by piece."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory

from criticflow.checkpoint.layout import Piece, StoredTensor
from criticflow.checkpoint.stream import Sink, require_finite
from criticflow.errors import UserError
from criticflow.files import write_json

# Names of the safetensors format.
_FORMAT_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Output:
    """A tensor as it will be written."""

    name: str
    source: StoredTensor
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.source.numel * self.dtype.itemsize


class SafetensorsFiles:
    """Open output files of a model, each tensor at its place.

    Attributes:
        paths: The files, one unless the model is larger than ``max_shard_size``.
        places: For each tensor its file and its first byte there.
    """

    def __init__(self, folder: Path, outputs: Sequence[Output], max_shard_size: str | int) -> None:
        """Write the headers and, for several files, ``model.safetensors.index.json``.

        Raises:
            UserError: a type that safetensors does not know, a bad ``max_shard_size``.
        """
        for output in outputs:
            if output.dtype not in _FORMAT_NAMES:
                raise UserError(f"{output.name} is of type {output.dtype}, which is not written")
        by_name = {output.name: output for output in outputs}
        try:
            split = split_state_dict_into_shards_factory(
                by_name,
                get_storage_size=lambda output: output.nbytes,
                filename_pattern="model{suffix}.safetensors",
                max_shard_size=max_shard_size,
            )
        except ValueError as error:
            raise UserError(f"--max-shard-size {max_shard_size}: give e.g. 5GB") from error
        self.paths = [folder / name for name in split.filename_to_tensors]
        self.places: dict[str, tuple[Path, int]] = {}
        self._descriptors: dict[Path, int] = {}
        # The kernel lets one thread at a time write to a file, and others wait with a busy core.
        self._writing = threading.Lock()
        for filename, names in split.filename_to_tensors.items():
            self._start_file(folder / filename, [by_name[name] for name in names])
        if split.is_sharded:
            index = {
                "metadata": {"total_size": sum(output.nbytes for output in outputs)},
                "weight_map": split.tensor_to_filename,
            }
            write_json(folder / "model.safetensors.index.json", index)

    def _start_file(self, path: Path, outputs: Sequence[Output]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        position = 0
        # Wide types first, as the format's own writer does, so that every tensor is aligned.
        for output in sorted(outputs, key=lambda output: -output.dtype.itemsize):
            header[output.name] = {
                "dtype": _FORMAT_NAMES[output.dtype],
                "shape": list(output.source.shape),
                "data_offsets": [position, position + output.nbytes],
            }
            position += output.nbytes
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._descriptors[path] = descriptor
        start = 8 + len(encoded)
        _write(descriptor, len(encoded).to_bytes(8, "little") + encoded, 0)
        os.truncate(descriptor, start + position)
        for output in outputs:
            begin = header[output.name]["data_offsets"][0]  # type: ignore[index]
            self.places[output.name] = (path, start + begin)

    def sink(self, output: Output, piece: Piece) -> Sink:
        """What puts elements of ``piece`` where they belong, cast to the output's type."""
        path, start = self.places[output.name]
        descriptor = self._descriptors[path]
        shape, itemsize = output.source.shape, output.dtype.itemsize

        def put(values: torch.Tensor, first: int) -> None:
            if values.dtype != output.dtype:
                values = values.to(output.dtype)
                # A narrower type can overflow.
                require_finite(values, f"{output.name} as {output.dtype}")
            data = memoryview(values.view(torch.uint8).numpy())
            for begin, position, length in piece.box.runs(shape, first, first + len(values)):
                offset = (begin - first) * itemsize
                part = data[offset : offset + length * itemsize]
                with self._writing:
                    _write(descriptor, part, start + position * itemsize)

        return put

    def close(self) -> None:
        """Close the files; nothing can be written afterwards."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


@contextmanager
def safetensors_files(
    folder: Path, outputs: Sequence[Output], max_shard_size: str | int
) -> Iterator[SafetensorsFiles]:
    """:class:`SafetensorsFiles`, closed when the block ends."""
    files = SafetensorsFiles(folder, outputs, max_shard_size)
    try:
        yield files
    finally:
        files.close()


def _write(descriptor: int, data: bytes | memoryview, position: int) -> None:
    while len(data):
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written
