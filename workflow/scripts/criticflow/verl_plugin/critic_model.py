"""Whether a run's critic reads what its actor writes, before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import AutoTokenizer
from verl.trainer.ppo.utils import need_critic

from criticflow.errors import UserError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_models(config: DictConfig) -> None:
    """Compare critic and actor where both are directories; names on the hub are not looked at.

    Args:
        config: verl's whole configuration.

    Raises:
        UserError: their tokenizers differ, or the critic's value head is of another kind than
            ``critic.value_head``.
    """
    if not need_critic(config):
        return
    critic, actor = Path(config.critic.model.path), Path(config.actor_rollout_ref.model.path)
    if not (critic / "config.json").is_file():
        return
    stored = json.loads((critic / "config.json").read_text(encoding="utf-8"))
    if any("ForTokenClassification" in name for name in stored.get("architectures") or []):
        check_value_head(critic, stored, config.critic.value_head)
    if critic != actor and all(map(_has_tokenizer, (critic, actor))):
        check_tokenizers(critic, actor, trust_remote_code=config.critic.model.trust_remote_code)


def check_value_head(critic: Path, stored: dict[str, Any], value_head: str) -> None:
    """Raise :class:`UserError` if the critic's head is of another kind than this run builds.

    Args:
        critic: its directory.
        stored: its ``config.json``.
        value_head: ``critic.value_head``.
    """
    found = stored.get("value_head") or "linear"
    if found != value_head:
        raise UserError(
            f"critic.value_head={value_head}: the critic in {critic} has the head {found!r}: set "
            "critic.value_head to what it was trained with"
        )


def check_tokenizers(critic: Path, actor: Path, *, trust_remote_code: bool = False) -> None:
    """Raise :class:`UserError` if a token has another number for the critic than for the actor."""
    vocabularies = [
        AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code).get_vocab()
        for path in (critic, actor)
    ]
    differing = vocabularies[0].items() ^ vocabularies[1].items()
    if differing:
        token = min(differing)[0]
        numbers = [vocabulary.get(token, "none") for vocabulary in vocabularies]
        raise UserError(
            f"critic.model.path={critic} has another tokenizer than the actor in {actor} "
            f"({token!r} is token {numbers[0]} there, {numbers[1]} here): a critic reads the "
            "actor's tokens, so take one of the same family"
        )


def _has_tokenizer(path: Path) -> bool:
    return any((path / name).is_file() for name in _TOKENIZERS)
