"""criticflow's keys in verl's configuration: read from shells and YAML, checked at the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig

from criticflow.errors import UserError

_WORDS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False, "": False, "none": False,
}  # fmt: skip
VALUE_HEADS = ("linear", "mlp")
MASK_TYPES = ("bernoulli", "fixed_ratio")


def as_bool(key: str, value: Any) -> bool:
    """A boolean as YAML, Hydra or a shell variable gives it (``"false"`` is false).

    Raises:
        UserError: it is none.
    """
    word = str(value).strip().lower()
    if word not in _WORDS:
        raise UserError(f"{key}={value!r} is not a boolean: write true or false")
    return _WORDS[word]


@dataclass(frozen=True)
class RewardMaskSettings:
    """``algorithm.reward_mask_*``.

    Raises:
        UserError: the ratio is not in [0, 1], or what is kept would be rescaled by 1/0.
    """

    ratio: float = 0.0
    type: Literal["bernoulli", "fixed_ratio"] = "bernoulli"
    rescale: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0:
            raise UserError(f"algorithm.reward_mask_ratio={self.ratio} is not in [0, 1]")
        if self.type not in MASK_TYPES:
            raise UserError(
                f"algorithm.reward_mask_type={self.type!r}: choose one of {', '.join(MASK_TYPES)}"
            )
        if self.rescale and self.ratio == 1.0:
            raise UserError(
                "algorithm.reward_mask_rescale: with ratio 1 nothing is left to rescale"
            )

    @classmethod
    def read(cls, config: DictConfig) -> RewardMaskSettings:
        """From verl's whole configuration; the mask's seed defaults to ``data.seed``."""
        algorithm, seed = config.algorithm, config.algorithm.reward_mask_seed
        try:
            ratio = float(algorithm.reward_mask_ratio)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"algorithm.reward_mask_ratio={algorithm.reward_mask_ratio!r} is not a number"
            ) from error
        return cls(
            ratio=ratio,
            type=algorithm.reward_mask_type,
            rescale=as_bool("algorithm.reward_mask_rescale", algorithm.reward_mask_rescale),
            seed=int((config.data.seed or 0) if seed is None else seed),
        )


def check(config: DictConfig) -> None:
    """Refuse impossible values of criticflow's keys before anything is started.

    Raises:
        UserError: the key and its value.
    """
    RewardMaskSettings.read(config)
    as_bool("critic.freeze", config.critic.freeze)
    as_bool("critic.allow_untrained", config.critic.allow_untrained)
    as_bool("trainer.load_critic_only", config.trainer.load_critic_only)
    if config.critic.value_head not in VALUE_HEADS:
        raise UserError(
            f"critic.value_head={config.critic.value_head!r}: "
            f"choose one of {', '.join(VALUE_HEADS)}"
        )
