"""Which files a checkpoint consists of, from their names; quick, without torch."""

from __future__ import annotations

import re
from pathlib import Path

from criticflow.errors import UserError
from criticflow.files import read_json

_RANK_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


def rank_file_name(world_size: int, rank: int, part: str = "model") -> str:
    """The name that verl gives to a rank's file of ``model``, ``optim`` or ``extra_state``."""
    return f"{part}_world_size_{world_size}_rank_{rank}.pt"


def find_rank_files(local_dir: Path) -> tuple[list[Path], int | None, list[str]]:
    """Paths in rank order, FSDP version (None if unknown) and notes.

    Raises:
        UserError: no such directory, no or missing or mixed rank files, Megatron.
    """
    if not local_dir.is_dir():
        raise UserError(
            f"{local_dir} is not a directory: give verl's .../global_step_N/actor or critic"
        )
    found: dict[int, dict[int, Path]] = {}
    for path in local_dir.iterdir():
        if match := _RANK_FILE.fullmatch(path.name):
            found.setdefault(int(match[1]), {})[int(match[2])] = path
    if not found:
        if (local_dir / "dist_ckpt").exists() or (local_dir / "model").is_dir():
            raise UserError(f"{local_dir} is a Megatron checkpoint: only FSDP's are read")
        raise UserError(
            f"{local_dir} has no model_world_size_N_rank_R.pt: give verl's .../actor or critic, "
            "saved with 'model' among its save_contents"
        )
    config_path, version, notes = local_dir / "fsdp_config.json", None, []
    if config_path.exists():
        config = read_json(config_path)
        if not isinstance(config, dict) or not isinstance(config.get("world_size"), int):
            raise UserError(f"{config_path} has no integer world_size: restore the file")
        world_size, version = config["world_size"], config.get("FSDP_version")
        if world_size not in found:
            raise UserError(
                f"{config_path} says world size {world_size}, but the files in {local_dir} are of "
                f"world size {', '.join(map(str, sorted(found)))}: restore the matching files"
            )
    elif len(found) == 1:
        (world_size,) = found
        notes.append(f"no fsdp_config.json: world size {world_size} taken from the file names")
    else:
        raise UserError(
            f"{local_dir} has no fsdp_config.json and files of world sizes "
            f"{', '.join(map(str, sorted(found)))}: remove those of the other runs"
        )
    ranks = found[world_size]
    missing = [rank for rank in range(world_size) if rank not in ranks]
    if missing:
        raise UserError(
            f"{local_dir} lacks {len(missing)} of {world_size} rank files: rank "
            f"{', '.join(map(str, missing))}: copy model_world_size_{world_size}_rank_*.pt in full"
        )
    if extra := sorted(set(ranks) - set(range(world_size))):
        raise UserError(f"{local_dir} has rank {extra[0]} of world size {world_size}: remove it")
    return [ranks[rank] for rank in range(world_size)], version, notes
