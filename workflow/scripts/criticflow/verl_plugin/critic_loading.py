"""``trainer.load_critic_only``: a trained critic from a verl checkpoint, everything else fresh.

    resume_from_path = .../global_step_N   ->  critic weights of step N; actor, optimizers, data
                                               order and step count as in a new run

The checkpoint's optimizer is not loaded: a warm start begins with the critic's weights alone. A
run directory that already holds a checkpoint of its own resumes from that, whatever the warm start
says.
"""

from __future__ import annotations

import re
from pathlib import Path

from criticflow.errors import UserError

FOLDERS = ("critic", "Critic")
_SHARD = re.compile(r"model_world_size_(\d+)_rank_\d+\.pt")


def critic_folder(resume_from_path: str | None, world_size: int) -> Path:
    """The critic's shards in a checkpoint, checked before any worker touches them.

    Args:
        resume_from_path: a ``global_step_N`` directory.
        world_size: ranks of this run; FSDP shards load only on as many ranks as wrote them.

    Raises:
        UserError: not a ``global_step_`` path, no critic in it, or another world size.
    """
    path = Path(resume_from_path or "")
    if "global_step_" not in str(path):
        raise UserError(
            f"trainer.resume_from_path={resume_from_path}: trainer.load_critic_only needs the path "
            "of a checkpoint, .../global_step_N"
        )
    folder = next((path / name for name in FOLDERS if (path / name).is_dir()), None)
    if folder is None:
        raise UserError(f"{path} holds no critic: there is neither critic/ nor Critic/ in it")
    sizes = {int(match[1]) for file in folder.iterdir() if (match := _SHARD.fullmatch(file.name))}
    if not sizes:
        raise UserError(f"{folder} holds no model_world_size_*_rank_*.pt: it is no FSDP checkpoint")
    if sizes != {world_size}:
        found = ", ".join(map(str, sorted(sizes)))
        raise UserError(
            f"{folder} was written by {found} ranks, this run has {world_size}. Convert it and "
            "give the result as critic.model.path instead: python "
            f"workflow/scripts/convert_critic_to_hf.py --local_dir {folder} --target_dir CRITIC_DIR"
        )
    return folder
