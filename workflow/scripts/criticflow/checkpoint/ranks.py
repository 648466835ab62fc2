"""A training's newest checkpoint for another number of ranks, so that it goes on from there.

Weights as in :mod:`criticflow.checkpoint.reshard`. Adam's moments are cut the same way as the
weights, and steps and learning rates are the same on all ranks. Random states belong to a rank; a
rank that there was not before begins with that of rank 0. (Nothing in training draws from them:
rollouts, masks and the data's order have generators of their own.)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DeviceMesh, DTensor, Shard

from criticflow.checkpoint.layout import local_box
from criticflow.checkpoint.rank_files import find_rank_files, rank_file_name
from criticflow.checkpoint.reshard import distributed, mesh_on_rank, reshard
from criticflow.checkpoint.retention import last_step
from criticflow.checkpoint.shards import Mesh
from criticflow.errors import UserError
from criticflow.files import replacing


def fit_ranks(directory: Path, ranks: int) -> int | None:
    """Make the newest checkpoint in ``directory`` one of ``ranks`` ranks.

    Needs room for a further checkpoint, and memory for one rank's optimizer.

    Returns:
        How many ranks it was of; None: there is none, or it fits already.

    Raises:
        UserError: its optimizer is laid out in another way than by FSDP2 on a flat mesh.
    """
    folder = directory / f"global_step_{last_step(directory)}"
    kinds = [folder / name for name in ("actor", "critic") if (folder / name).is_dir()]
    before = {kind: len(find_rank_files(kind)[0]) for kind in kinds}
    if all(count == ranks for count in before.values()):
        return None
    with replacing(folder) as partial:
        partial.mkdir()
        for path in folder.iterdir():
            if path.is_file():
                shutil.copy2(path, partial / path.name)
        for kind, count in before.items():
            reshard(kind, partial / kind.name, ranks)
            _reshard_optimizer(kind, partial / kind.name, count, ranks)
            _copy_extra_state(kind, partial / kind.name, count, ranks)
    return max(before.values())


def _reshard_optimizer(source: Path, target: Path, before: int, ranks: int) -> None:
    paths = [source / rank_file_name(before, rank, "optim") for rank in range(before)]
    if not any(path.exists() for path in paths):
        return  # a frozen critic has none
    # Written by this project's own training, and mapped: only what is copied takes memory.
    states = [torch.load(path, weights_only=False, mmap=True) for path in paths]
    first = states[0]
    if not isinstance(first, dict) or set(first) != {"state", "param_groups"}:
        raise UserError(f"{paths[0]}: not the state of one optimizer; {_remedy(before)}")
    mesh = Mesh(("fsdp",), (ranks,), tuple(range(ranks)), _device(first))
    for rank in range(ranks):
        device_mesh = mesh_on_rank(mesh, rank)
        state = {
            key: {
                name: _value([one["state"][key][name] for one in states], mesh, device_mesh, rank)
                for name in moments
            }
            for key, moments in first["state"].items()
        }
        torch.save(
            {"state": state, "param_groups": first["param_groups"]},
            target / rank_file_name(ranks, rank, "optim"),
        )


def _value(values: list[Any], mesh: Mesh, device_mesh: DeviceMesh, rank: int) -> Any:
    """One entry of the optimizer's state on a new rank, from that of all old ranks."""
    value = values[0]
    if not isinstance(value, DTensor):
        if isinstance(value, torch.Tensor) and value.ndim and len(values) > 1:
            raise UserError(f"the optimizer's state has no layout (FSDP1): {_remedy(len(values))}")
        return value
    if len(value.placements) != 1 or not isinstance(placement := value.placements[0], Shard):
        raise UserError(
            f"the optimizer's state is laid out as {value.placements}, not sharded over one mesh: "
            f"{_remedy(len(values))}"
        )
    whole = torch.cat([one.to_local() for one in values], dim=placement.dim)
    box = local_box(tuple(whole.shape), mesh, (placement,), rank)
    block = whole[tuple(slice(s, s + n) for s, n in zip(box.starts, box.sizes, strict=True))]
    return distributed(block.clone(), whole, device_mesh, placement)


def _device(state: dict[str, Any]) -> str:
    found = (v for moments in state["state"].values() for v in moments.values())
    return next((v.device_mesh.device_type for v in found if isinstance(v, DTensor)), "cpu")


def _remedy(ranks: int) -> str:
    return f"go on with the {ranks} ranks that wrote it"


def _copy_extra_state(source: Path, target: Path, before: int, ranks: int) -> None:
    for rank in range(ranks):
        old = source / rank_file_name(before, rank if rank < before else 0, "extra_state")
        if old.exists():
            shutil.copy2(old, target / rank_file_name(ranks, rank, "extra_state"))
