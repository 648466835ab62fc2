"""``trainer.load_critic_only``: a trained critic from a verl checkpoint, everything else fresh.

    resume_from_path = .../global_step_N   ->  critic weights of step N; actor, optimizers, data
                                               order and step count as in a new run

The checkpoint's optimizer is not loaded: a warm start begins with the critic's weights alone. A
run directory that already holds a checkpoint of its own resumes from that, whatever the warm start
says (unless ``trainer.resume_mode=disable``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import AutoConfig
from verl.trainer.ppo.utils import need_critic
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from criticflow.checkpoint.rank_files import find_rank_files
from criticflow.errors import UserError

FOLDERS = ("critic", "Critic")
_SHAPE_KEYS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def own_checkpoint(trainer: DictConfig) -> str | None:
    """The checkpoint that the run's own directory holds, if it is to be resumed from."""
    if trainer.resume_mode == "disable":
        return None
    return find_latest_ckpt_path(str(Path(trainer.default_local_dir).absolute()))


def check_warm_start(config: DictConfig) -> None:
    """Whether the critic can be taken from the checkpoint, before anything is started.

    Args:
        config: verl's whole configuration, with ``trainer.load_critic_only``.

    Raises:
        UserError: see :func:`critic_folder` and :func:`check_architecture`; or there is no critic
            in this run.
    """
    if not need_critic(config):
        raise UserError("trainer.load_critic_only: this run has no critic to load one into")
    if own_checkpoint(config.trainer) is not None:
        return
    world_size = config.trainer.nnodes * config.trainer.n_gpus_per_node
    folder = critic_folder(config.trainer.resume_from_path, world_size)
    model = config.critic.model
    here = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    check_architecture(folder, here.to_dict(), config.critic.value_head)


def critic_folder(resume_from_path: str | None, world_size: int) -> Path:
    """The critic's shards in a checkpoint, checked before any worker touches them.

    Args:
        resume_from_path: a ``global_step_N`` directory.
        world_size: ranks of this run; FSDP shards load only on as many ranks as wrote them.

    Raises:
        UserError: not a ``global_step_`` path, no critic in it, another world size, or a shard is
            missing.
    """
    path = Path(resume_from_path or "").absolute()
    if "global_step_" not in str(path):
        raise UserError(
            f"trainer.resume_from_path={resume_from_path}: trainer.load_critic_only needs the path "
            "of a checkpoint, .../global_step_N"
        )
    folder = next((path / name for name in FOLDERS if (path / name).is_dir()), None)
    if folder is None:
        raise UserError(f"{path} holds no critic: there is neither critic/ nor Critic/ in it")
    paths, *_ = find_rank_files(folder)
    if len(paths) != world_size:
        target = f"{folder}_hf"
        raise UserError(
            f"{folder} was written by {len(paths)} ranks, this run has {world_size}. Convert it: "
            f"python workflow/scripts/convert_critic_to_hf.py --local_dir {folder} --target_dir "
            f"{target}; then give critic.model.path={target} in place of trainer.load_critic_only"
        )
    return folder


def check_architecture(folder: Path, here: dict[str, Any], value_head: str) -> None:
    """Whether the critic in a checkpoint is of the shape that this run builds.

    Args:
        folder: of :func:`critic_folder`.
        here: configuration of this run's critic, as in ``config.json``.
        value_head: kind of this run's value head.

    Raises:
        UserError: the first difference.
    """
    file = folder / "huggingface" / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no huggingface/config.json: the checkpoint is incomplete")
    stored = json.loads(file.read_text(encoding="utf-8"))
    pairs = {key: (stored.get(key), here.get(key)) for key in _SHAPE_KEYS}
    pairs["value_head"] = (stored.get("value_head") or "linear", value_head)
    for key, (theirs, ours) in pairs.items():
        if theirs != ours:
            remedy = "critic.value_head" if key == "value_head" else "critic.model.path"
            raise UserError(
                f"the critic in {folder} has {key}={theirs}, this run's critic {key}={ours}: set "
                f"{remedy} to what that critic was trained with"
            )
