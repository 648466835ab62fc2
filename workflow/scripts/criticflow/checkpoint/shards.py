"""Safe reading of one rank's checkpoint file: what it holds and where, without loading the data."""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec

from criticflow.checkpoint.rank_files import find_rank_files
from criticflow.errors import UserError

# torch warns for every mesh read outside its process group; here there never is one.
logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)

_MESH_NAMES = {("fsdp",), ("ddp", "fsdp")}


@dataclass(frozen=True)
class Mesh:
    """A device mesh: ``ranks`` in row-major order of ``shape``."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    ranks: tuple[int, ...]
    device: str

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """Position of ``rank`` along each mesh dimension."""
        rest, position = self.ranks.index(rank), []
        for size in reversed(self.shape):
            rest, index = divmod(rest, size)
            position.append(index)
        return tuple(reversed(position))


@dataclass(frozen=True)
class Record:
    """A stretch of a rank file with a name; ``crc`` is None where the writer stored none."""

    name: str
    start: int
    size: int
    crc: int | None


@dataclass(frozen=True)
class LocalTensor:
    """One rank's part of a tensor: ``local_shape`` elements, contiguous, at byte ``start``."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    mesh: Mesh | None
    placements: tuple[Placement, ...]
    record: str
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.local_shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class RankFile:
    """The contents of one ``model_world_size_N_rank_R.pt``."""

    path: Path
    rank: int
    size: int
    records: tuple[Record, ...]
    tensors: dict[str, LocalTensor]


@dataclass(frozen=True)
class Shards:
    """All rank files of a checkpoint, in rank order; ``notes`` say what had to be assumed."""

    files: tuple[RankFile, ...]
    fsdp_version: int | None
    notes: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]


def read_shards(local_dir: Path) -> Shards:
    """Read the structure of every rank file; no tensor data is loaded.

    Raises:
        UserError: a file is missing, truncated, corrupt, asks to run code, or holds a layout that
            verl's FSDP backends do not write.
    """
    paths, version, notes = find_rank_files(local_dir)
    files = tuple(read_rank_file(path, rank, len(paths)) for rank, path in enumerate(paths))
    if any(record.crc is None for file in files for record in file.records):
        notes.append("some files were saved without checksums: corrupt bytes cannot be seen")
    return Shards(files, version, tuple(notes))


def read_rank_file(path: Path, rank: int, world_size: int) -> RankFile:
    """Read which tensors a file holds, and at which bytes.

    Raises:
        UserError: see :func:`read_shards`.
    """
    records = _read_records(path)
    state = _load_structure(path)
    starts = {record.start: record for record in records}
    meshes: dict[int, Mesh] = {}
    tensors = {
        name: _locate(path, rank, world_size, name, value, starts, meshes)
        for name, value in state.items()
    }
    return RankFile(path, rank, path.stat().st_size, tuple(records), tensors)


def _read_records(path: Path) -> list[Record]:
    damaged = f"{path} is truncated or not a file written by torch.save: copy it again"
    size = path.stat().st_size
    records = []
    try:
        with open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            pickled = next((e for e in entries if e.filename.endswith("/data.pkl")), None)
            if pickled is None or any(entry.compress_type for entry in entries):
                raise UserError(damaged)
            checked = pickled.CRC != 0  # torch can be told to write no checksums: all are 0 then
            for entry in entries:
                archive.open(entry).close()  # the local header must agree with the directory
                if not entry.filename.rsplit("/data/", 1)[-1].isdigit() and checked:
                    archive.read(entry)  # small records: checked here, before anything is read
                stream.seek(entry.header_offset + 26)
                name_length, extra_length = struct.unpack("<HH", stream.read(4))
                start = entry.header_offset + 30 + name_length + extra_length
                if start + entry.file_size > size:
                    raise UserError(damaged)
                records.append(
                    Record(entry.filename, start, entry.file_size, entry.CRC if checked else None)
                )
    except (zipfile.BadZipFile, struct.error, EOFError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{damaged} ({error})") from error
    except (NotImplementedError, RuntimeError) as error:  # a flag byte turned to nonsense
        raise UserError(f"{damaged} ({error})") from error
    return records


def _load_structure(path: Path) -> dict[str, torch.Tensor]:
    try:
        # "meta" keeps shapes and file offsets and reads no data.
        state = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "ShardedTensor" in reason:
            raise UserError(
                f"{path} holds ShardedTensors (FSDP1 without a device mesh), which verl does not "
                "write and this program does not read"
            ) from error
        match = re.search(r"GLOBAL ([\w.]+)", reason)
        raise UserError(
            f"{path} was not opened: it needs {match[1] if match else 'a type'} which is not among "
            "the safe types of a checkpoint and could run code: do not use this file"
        ) from error
    except (
        RuntimeError,
        EOFError,
        AssertionError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        # Whatever a damaged pickle makes torch raise; the file is at fault in every case.
        raise UserError(f"{path} is corrupt, torch cannot read it ({error})") from error
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds no state dict: it was not written by verl's FSDP backend")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor")
    return state


def _locate(
    path: Path,
    rank: int,
    world_size: int,
    name: str,
    value: torch.Tensor,
    starts: dict[int, Record],
    meshes: dict[int, Mesh],
) -> LocalTensor:
    mesh, placements, local = None, (), value
    if isinstance(value, DTensor):
        spec = value._spec
        placements, local = tuple(spec.placements), value._local_tensor
        mesh = meshes.get(id(spec.mesh))
        if mesh is None:
            mesh = meshes[id(spec.mesh)] = _read_mesh(path, rank, world_size, name, spec.mesh)
        for placement in placements:
            if type(placement) not in (Shard, Replicate):
                raise UserError(
                    f"{path}: {name} is placed as {placement}: only Shard and Replicate are read"
                )
        order = vars(spec).get("shard_order")
        if order is not None and order != DTensorSpec.compute_default_shard_order(placements):
            raise UserError(f"{path}: {name} is sharded in the unusual order {order}: not read")
        if len(placements) != len(mesh.shape):
            raise UserError(f"{path}: {name} has {len(placements)} placements on mesh {mesh.shape}")
    if local.layout is not torch.strided or not local.is_contiguous() or local.is_quantized:
        raise UserError(f"{path}: {name} is not stored as a contiguous dense tensor")
    storage = local.untyped_storage()
    record = starts.get(storage._checkpoint_offset)
    if record is None or record.size != storage.nbytes():
        raise UserError(f"{path} is corrupt: the bytes of {name} are not where they should be")
    begin = record.start + local.storage_offset() * local.dtype.itemsize
    result = LocalTensor(
        name,
        local.dtype,
        tuple(value.shape),
        tuple(local.shape),
        mesh,
        placements,
        record.name,
        begin,
    )
    if begin + result.nbytes > record.start + record.size:
        raise UserError(f"{path} is corrupt: {name} reaches beyond its stored bytes")
    return result


def _read_mesh(path: Path, rank: int, world_size: int, name: str, mesh: object) -> Mesh:
    """The mesh from its stored fields; its own methods expect a process group and data."""
    fields = vars(mesh)
    if "mesh" in fields:  # as torch before 2.10 stored it
        shape = tuple(fields["mesh"].shape)
        ranks = tuple(_read_integers(path, fields["mesh"]))
        names = fields.get("mesh_dim_names") or fields.get("_mesh_dim_names")
        device = fields.get("device_type") or fields.get("_device_type")
    else:
        layout, rank_map = fields["_layout"], fields["_rank_map"]
        sizes = [axis.shape for axis in layout.axes] if hasattr(layout, "axes") else layout.shape
        shape = tuple(math.prod(size) if isinstance(size, tuple) else size for size in sizes)
        ranks = fields.get("_flatten_rank_map") or tuple(_read_integers(path, rank_map))
        names, device = fields["_mesh_dim_names"], fields["_device_type"]
    names = tuple(names or ())
    if names not in _MESH_NAMES or len(names) != len(shape):
        raise UserError(
            f"{path}: {name} lies on a device mesh {names or '(unnamed)'} of shape {shape}: only "
            "('fsdp',) and ('ddp', 'fsdp') are read (no tensor or pipeline parallelism)"
        )
    if sorted(ranks) != list(range(world_size)) or math.prod(shape) != world_size:
        raise UserError(
            f"{path}: {name} lies on a mesh of {math.prod(shape)} ranks, but the checkpoint has "
            f"{world_size}: the files of different runs are mixed, or fsdp_config.json is wrong"
        )
    saved_rank = fields.get("_rank")
    if isinstance(saved_rank, int) and saved_rank != rank:
        raise UserError(f"{path} was written by rank {saved_rank}: restore the original file names")
    return Mesh(names, shape, tuple(ranks), str(device))


def _read_integers(path: Path, tensor: torch.Tensor) -> list[int]:
    """The values of a small integer tensor of which only the place in the file is known."""
    itemsize = tensor.dtype.itemsize
    offset = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * itemsize
    with open(path, "rb") as stream:
        data = os.pread(stream.fileno(), tensor.numel() * itemsize, offset)
    return torch.frombuffer(bytearray(data), dtype=tensor.dtype).tolist()
