"""Which part of a tensor each rank holds, from the tensor's own mesh and placements."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.distributed.tensor import Placement, Shard

from criticflow.checkpoint.shards import LocalTensor, Mesh, RankFile, Shards
from criticflow.errors import UserError


@dataclass(frozen=True)
class Box:
    """A block of a tensor: ``sizes`` elements from ``starts`` on, along each dimension."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.sizes)

    def runs(self, shape: tuple[int, ...], first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Contiguous stretches of the block's own elements ``first`` to ``last`` (exclusive).

        Yields ``(position in the block, position in the whole tensor, length)``, in elements, both
        positions counted in row-major order.
        """
        inner = len(shape)  # dimensions from here on are whole
        while inner > 0 and self.sizes[inner - 1] == shape[inner - 1]:
            inner -= 1
        inner = max(inner - 1, 0)
        length = math.prod(self.sizes[inner:])
        strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
        origin = sum(start * stride for start, stride in zip(self.starts, strides, strict=True))
        for run in range(first // length, -(-last // length)):
            rest, position = run, origin
            for dim in reversed(range(inner)):
                rest, index = divmod(rest, self.sizes[dim])
                position += index * strides[dim]
            begin, end = max(first, run * length), min(last, (run + 1) * length)
            yield begin, position + begin - run * length, end - begin


@dataclass(frozen=True)
class Piece:
    """One rank's block of a tensor, and where its bytes are."""

    file: RankFile
    local: LocalTensor
    box: Box


@dataclass(frozen=True)
class StoredTensor:
    """A whole tensor. ``pieces`` cover it exactly once; ``replicas`` pair a copy with its piece."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    mesh: Mesh | None
    placements: tuple[Placement, ...]
    pieces: tuple[Piece, ...]
    replicas: tuple[tuple[Piece, Piece], ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def local_box(
    shape: tuple[int, ...], mesh: Mesh, placements: tuple[Placement, ...], rank: int
) -> Box:
    """The block that DTensor gives to ``rank``: chunks as of ``torch.chunk``, mesh dims in order.

    The last chunks may be short or empty.
    """
    starts, sizes = [0] * len(shape), list(shape)
    for size, index, placement in zip(mesh.shape, mesh.coordinate(rank), placements, strict=True):
        if isinstance(placement, Shard):
            dim = placement.dim % len(shape)
            chunk = -(-sizes[dim] // size)
            begin = min(index * chunk, sizes[dim])
            end = min(begin + chunk, sizes[dim])
            starts[dim] += begin
            sizes[dim] = end - begin
    return Box(tuple(starts), tuple(sizes))


def assemble(shards: Shards) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint, in the order of rank 0's file.

    Raises:
        UserError: the ranks disagree about a tensor, or do not cover it.
    """
    first = shards.files[0]
    for file in shards.files[1:]:
        differing = sorted(set(file.tensors) ^ set(first.tensors))
        if differing:
            raise UserError(
                f"{file.path} and {first.path} do not hold the same tensors, e.g. {differing[0]}: "
                "the files of different runs are mixed"
            )
    return {name: _assemble_one(name, shards.files) for name in first.tensors}


def _assemble_one(name: str, files: tuple[RankFile, ...]) -> StoredTensor:
    first = files[0].tensors[name]
    primary: dict[Box, Piece] = {}
    replicas: list[tuple[Piece, Piece]] = []
    for file in files:
        local = file.tensors[name]
        for what in ("shape", "dtype", "mesh", "placements"):
            ours, theirs = getattr(local, what), getattr(first, what)
            if ours != theirs:
                raise UserError(
                    f"{file.path}: {name} has {what} {ours}, but {theirs} on rank 0: "
                    "the files of different runs are mixed"
                )
        if local.mesh is None:
            box = Box((0,) * len(local.shape), local.shape)
        else:
            box = local_box(local.shape, local.mesh, local.placements, file.rank)
        if 0 in box.sizes:
            box = Box(box.starts, tuple(0 for _ in box.sizes))
        stored = local.local_shape
        if stored != box.sizes and not (0 in stored and 0 in box.sizes):
            raise UserError(
                f"{file.path}: rank {file.rank} should hold {box.sizes} of {name}, but has {stored}"
            )
        piece = Piece(file, local, box)
        if box in primary:
            replicas.append((piece, primary[box]))
        else:
            primary[box] = piece
    pieces = tuple(piece for piece in primary.values() if piece.box.numel)
    if sum(piece.box.numel for piece in pieces) != math.prod(first.shape):
        raise UserError(f"{name}: the ranks of {files[0].path.parent} do not hold all of it")
    return StoredTensor(
        name, first.dtype, first.shape, first.mesh, first.placements, pieces, tuple(replicas)
    )
