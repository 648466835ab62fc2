"""The same FSDP checkpoint for another number of ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch.distributed.tensor import DeviceMesh, DTensor, Placement, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from criticflow.checkpoint.layout import Box, StoredTensor, assemble, local_box
from criticflow.checkpoint.rank_files import rank_file_name
from criticflow.checkpoint.shards import Mesh, read_shards
from criticflow.checkpoint.target import require_free_target
from criticflow.checkpoint.transfer import Transfer
from criticflow.checkpoint.writer import Output, safetensors_files
from criticflow.errors import UserError
from criticflow.files import replacing, require_space


def reshard(
    local_dir: Path | str,
    target_dir: Path | str,
    world_size: int,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Write the model of an FSDP checkpoint for ``world_size`` ranks, values unchanged.

    The target has verl's layout with a mesh ``("fsdp",)`` (verl's ``fsdp_size: -1``), whatever the
    source's. Optimizer, scheduler and random state belong to their ranks and are left behind:
    resume with ``load_contents: [model]``. Whole tensors pass through a file beside the target, so
    twice the model's size is needed on the disk, but no memory.

    Raises:
        UserError: as for :func:`criticflow.checkpoint.convert.convert`; ``world_size`` below 1.
    """
    local_dir, target_dir = Path(local_dir), Path(target_dir)
    if world_size < 1:
        raise UserError(f"--world-size {world_size}: give 1 or more")
    shards = read_shards(local_dir)
    require_free_target(target_dir, local_dir, overwrite)
    stored = assemble(shards)
    # Tied tensors are two names of the same bytes: written once, and shared again below.
    same: dict[tuple, str] = {}
    original = {
        name: same.setdefault(tuple((p.file.rank, p.local.start, p.box) for p in t.pieces), name)
        for name, t in stored.items()
    }
    outputs = [Output(name, stored[name], stored[name].dtype) for name in same.values()]
    require_space(target_dir, 2 * sum(output.nbytes for output in outputs))
    with replacing(target_dir) as partial:
        partial.mkdir()
        scratch = partial / "whole"
        scratch.mkdir()
        with safetensors_files(scratch, outputs, max_shard_size=1 << 62) as files:
            with Transfer(shards, stored.values(), outputs, files, progress=progress) as job:
                job.result()
            places = files.places
        (path,) = files.paths
        mapped = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        whole = {
            output.name: _view(mapped, places[output.name][1], output.source) for output in outputs
        }
        device = next((t.mesh.device for t in stored.values() if t.mesh), "cpu")
        mesh = Mesh(("fsdp",), (world_size,), tuple(range(world_size)), device)
        version = shards.fsdp_version or 2
        all_plain = not any(tensor.mesh for tensor in stored.values())
        for rank in range(world_size):
            device_mesh = mesh_on_rank(mesh, rank)
            parts: dict[str, torch.Tensor] = {}
            for name, kept in original.items():
                if name != kept:
                    parts[name] = parts[kept]
                    continue
                placement = _placement(stored[name], version, world_size, all_plain)
                parts[name] = whole[name]
                if placement is not None:
                    box = local_box(tuple(whole[name].shape), mesh, (placement,), rank)
                    local = _cut(mapped, places[name][1], whole[name], box)
                    parts[name] = distributed(local, whole[name], device_mesh, placement)
            _save(parts, partial / rank_file_name(world_size, rank))
        del whole, mapped
        shutil.rmtree(scratch)
        if (local_dir / "huggingface").is_dir():
            weights = shutil.ignore_patterns("*.safetensors", "*.bin", "*.index.json")
            shutil.copytree(local_dir / "huggingface", partial / "huggingface", ignore=weights)
        (partial / "fsdp_config.json").write_text(
            json.dumps({"FSDP_version": version, "world_size": world_size}, indent=4)
        )


def _placement(
    tensor: StoredTensor, version: int, world_size: int, all_plain: bool
) -> Placement | None:
    """Placement on the new mesh; None for a plain tensor."""
    if version == 1 and world_size == 1:
        return None  # FSDP1 does not shard on one rank, and saves plain tensors
    if tensor.mesh is not None:
        return tensor.placements[-1]
    # A checkpoint without any DTensor is FSDP1's of one rank: its parameters become shards.
    return Shard(0) if all_plain and tensor.shape else None


def _view(storage: torch.UntypedStorage, start: int, tensor: StoredTensor) -> torch.Tensor:
    end = start + tensor.numel * tensor.dtype.itemsize
    return torch.empty(0, dtype=tensor.dtype).set_(storage[start:end]).view(tensor.shape)


def _cut(storage: torch.UntypedStorage, start: int, whole: torch.Tensor, box: Box) -> torch.Tensor:
    """A rank's block with a storage of its own (torch.save writes whole storages), mapped if it
    is contiguous in the whole tensor."""
    local = whole[tuple(slice(s, s + n) for s, n in zip(box.starts, box.sizes, strict=True))]
    if not local.is_contiguous():
        return local.contiguous()
    begin = start + local.storage_offset() * whole.dtype.itemsize
    end = begin + local.numel() * whole.dtype.itemsize
    return torch.empty(0, dtype=whole.dtype).set_(storage[begin:end]).view(local.shape)


def mesh_on_rank(mesh: Mesh, rank: int) -> DeviceMesh:
    """A device mesh as ``rank`` would have it, outside of any process group."""
    device_mesh = DeviceMesh(
        mesh.device,
        torch.tensor(mesh.ranks),
        mesh_dim_names=mesh.names,
        _init_backend=False,
        _rank=rank,
    )
    # The default process group's name, which a mesh of all ranks uses; FSDP1 gathers by it.
    device_mesh._dim_group_names = ["0"]
    return device_mesh


def distributed(
    local: torch.Tensor, whole: torch.Tensor, mesh: DeviceMesh, placement: Placement
) -> DTensor:
    """A DTensor from one rank's block; of ``whole`` only shape and strides count."""
    meta = TensorMeta(whole.shape, whole.stride(), whole.dtype)
    return DTensor(local, DTensorSpec(mesh, (placement,), tensor_meta=meta), requires_grad=False)


def _save(parts: dict[str, torch.Tensor], path: Path) -> None:
    try:
        torch.save(parts, path)
    except RuntimeError as error:  # how torch reports that the disk is full
        raise UserError(f"cannot write {path.name}: free some space and run again") from error
