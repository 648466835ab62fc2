"""criticflow's keys in verl's configuration: read from shells and YAML, checked at the start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, ValidationError
from verl.trainer.ppo.utils import need_critic

from criticflow.config.fields import Fraction, Strict
from criticflow.config.runs import RewardMask
from criticflow.errors import UserError
from criticflow.models.value_head import HEADS
from criticflow.verl_plugin import SEARCH_LOOP
from criticflow.verl_plugin.critic_loading import check_warm_start
from criticflow.verl_plugin.frozen_critic import check_trained
from criticflow.verl_plugin.lost_trajectories import Tolerance

_WORDS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False, "": False, "none": False,
}  # fmt: skip
CPUS_PER_RANK = 3
"""CPUs in a bundle of verl's placement group, beside the GPU."""


def as_bool(key: str, value: Any) -> bool:
    """A boolean as YAML, Hydra or a shell variable gives it (``"false"`` is false).

    Raises:
        UserError: it is none.
    """
    word = str(value).strip().lower()
    if word not in _WORDS:
        raise UserError(f"{key}={value!r} is not a boolean: write true or false")
    return _WORDS[word]


class RewardMaskSettings(RewardMask):
    """``algorithm.reward_mask_*``: the configuration's reward mask with a seed of its own."""

    seed: int = 0

    @classmethod
    def read(cls, config: DictConfig) -> RewardMaskSettings:
        """From verl's whole configuration; the mask's seed defaults to ``data.seed``.

        Raises:
            UserError: the ratio is not in [0, 1], there is no such type, or what is kept would be
                rescaled by 1/0.
        """
        algorithm = config.algorithm
        with _named("algorithm.reward_mask_{}"):
            return cls(
                ratio=_number("algorithm.reward_mask_ratio", algorithm.reward_mask_ratio),
                type=algorithm.reward_mask_type,
                rescale=as_bool("algorithm.reward_mask_rescale", algorithm.reward_mask_rescale),
                drop=as_bool("algorithm.reward_mask_drop", algorithm.reward_mask_drop),
                seed=_seed(config, "algorithm.reward_mask_seed"),
            )


class RandomRewardSettings(Strict):
    """``algorithm.random_reward*``."""

    probability: Fraction
    """Probability that an outcome is 1."""
    seed: int = 0

    @classmethod
    def read(cls, config: DictConfig) -> RandomRewardSettings | None:
        """From verl's whole configuration; None: rewards are the true ones.

        Raises:
            UserError: the probability is not in [0, 1].
        """
        algorithm = config.algorithm
        if algorithm.random_reward is None:
            return None
        with _named("algorithm.random_reward"):
            return cls(
                probability=_number("algorithm.random_reward", algorithm.random_reward),
                seed=_seed(config, "algorithm.random_reward_seed"),
            )


class AdvantageSettings(Strict):
    """``algorithm.critic_lam``, ``length_adaptive_alpha``, ``value_gate`` (see ``advantages``)."""

    gamma: float
    lam: float
    critic_lam: Fraction | None = None
    length_adaptive_alpha: float | None = Field(None, gt=0)
    value_gate: bool = False

    @classmethod
    def read(cls, config: DictConfig) -> AdvantageSettings:
        """From verl's whole configuration.

        Raises:
            UserError: a number is out of its range.
        """
        algorithm = config.algorithm
        numbers = {
            key: None if algorithm[key] is None else _number(f"algorithm.{key}", algorithm[key])
            for key in ("gamma", "lam", "critic_lam", "length_adaptive_alpha")
        }
        gate = as_bool("algorithm.value_gate", algorithm.value_gate)
        with _named("algorithm.{}"):
            return cls(**numbers, value_gate=gate)

    @property
    def changes_something(self) -> bool:
        given = (self.critic_lam, self.length_adaptive_alpha)
        return self.value_gate or given != (None, None)


class OracleSettings(Strict):
    """``critic.oracle_*``, ``critic.scale``, ``algorithm.gamma`` (see ``oracle``)."""

    continuations: int = Field(ge=1)
    lines_above: int | None = Field(None, ge=1)
    scale: float = 1.0
    gamma: float = 1.0

    @classmethod
    def read(cls, config: DictConfig) -> OracleSettings | None:
        """From verl's whole configuration; None: values are those of a critic.

        Raises:
            UserError: a number is out of its range, the critic would learn, or nobody knows what
                of a dialogue the actor wrote.
        """
        critic, key = config.critic, "critic.oracle_continuations"
        if critic.oracle_continuations is None:
            return None
        if not as_bool("critic.freeze", critic.freeze):
            raise UserError(f"{key} needs critic.freeze=true: no critic learns beside an oracle")
        searches = config.actor_rollout_ref.rollout.agent.default_agent_loop == SEARCH_LOOP
        if searches and not as_bool("search.mask_observations", config.search.mask_observations):
            raise UserError(
                f"{key} needs search.mask_observations=true: the mask says where turns begin"
            )
        lines = critic.oracle_lines_above
        with _named("critic.oracle_{}"):
            return cls(
                continuations=_integer(key, critic.oracle_continuations),
                lines_above=None if lines is None else _integer("critic.oracle_lines_above", lines),
                scale=_number("critic.scale", critic.scale),
                gamma=_number("algorithm.gamma", config.algorithm.gamma),
            )


def shuffle_seed(config: DictConfig) -> int | None:
    """Seed of ``critic.shuffle_values``; None: values stay where they are.

    Raises:
        UserError: the critic would learn, or the values are not a critic's.
    """
    critic, key = config.critic, "critic.shuffle_values"
    if not as_bool(key, critic.shuffle_values):
        return None
    if not as_bool("critic.freeze", critic.freeze):
        raise UserError(f"{key} needs critic.freeze=true: a critic learns from its own values")
    if critic.constant is not None or critic.oracle_continuations is not None:
        raise UserError(
            f"{key} takes the values of a critic: leave critic.constant and "
            "critic.oracle_continuations out"
        )
    return _seed(config, "critic.shuffle_seed")


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Turn what the schema refuses into an error with verl's key; ``{}`` stands for the field."""
    try:
        yield
    except ValidationError as error:
        problem = error.errors()[0]
        where = key.format(*(problem["loc"] or [""])).rstrip("_")
        if problem["loc"]:
            where += f"={problem['input']}"
        raise UserError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from None


def _number(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{key}={value!r} is not a number")
    return number


def _integer(key: str, value: Any) -> int:
    try:
        return int(str(value))  # by way of its text, or 1.5 would be 1 and true as well
    except ValueError:
        raise UserError(f"{key}={value!r} is not a whole number") from None


def _seed(config: DictConfig, key: str) -> int:
    """A seed of criticflow's own, by default that of the data."""
    seed = OmegaConf.select(config, key)
    return int(config.data.seed or 0) if seed is None else _integer(key, seed)


def keep_checkpoints(config: DictConfig) -> int | None:
    """``trainer.keep_checkpoints``: how many stay; None: all.

    Raises:
        UserError: not a whole number of at least 1.
    """
    key, value = "trainer.keep_checkpoints", config.trainer.keep_checkpoints
    if value is None:
        return None
    if (number := _integer(key, value)) < 1:
        raise UserError(f"{key}={number}: keep at least 1, or null for all")
    return number


def lost_trajectories(config: DictConfig) -> Tolerance:
    """``trainer.lost_trajectories``, with the responses to each prompt.

    Raises:
        UserError: the share is not in [0, 1).
    """
    key, rollout = "trainer.lost_trajectories", config.actor_rollout_ref.rollout
    share = _number(key, config.trainer.lost_trajectories)
    if not 0.0 <= share < 1.0:
        raise UserError(f"{key}={share}: a share of a step's trajectories, in [0, 1)")
    return Tolerance(share, {"train": rollout.n, "val": rollout.val_kwargs.n})


def check_cpus(config: DictConfig, cpus: float) -> None:
    """Whether Ray can place verl's actors; if it cannot, Ray waits for ever and says nothing.

    Args:
        config: verl's whole configuration.
        cpus: logical CPUs of all nodes, as Ray counts them.

    Raises:
        UserError: there are fewer than the actors claim.
    """
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    queue = 1 + config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    needed = queue + CPUS_PER_RANK * ranks
    if cpus < needed:
        raise UserError(
            f"Ray has {cpus:g} CPUs, training with {ranks} ranks claims {needed} ({queue} for the "
            f"queue between processes, {CPUS_PER_RANK} for each rank): give the job more, or let "
            f"them share cores with train.verl: {{ray_kwargs.ray_init.num_cpus: {needed}}}"
        )


def check(config: DictConfig) -> None:
    """Refuse impossible values of criticflow's keys before anything is started.

    Raises:
        UserError: the key and its value.
    """
    RewardMaskSettings.read(config)
    RandomRewardSettings.read(config)
    AdvantageSettings.read(config)
    OracleSettings.read(config)
    shuffle_seed(config)
    keep_checkpoints(config)
    lost_trajectories(config)
    _integer("critic.model.head_seed", config.critic.model.head_seed)
    if not config.critic.model.path:
        raise UserError("critic.model.path is empty: give a model, or unset CRITIC_MODEL_PATH")
    freeze = as_bool("critic.freeze", config.critic.freeze)
    untrained = as_bool("critic.allow_untrained", config.critic.allow_untrained)
    if as_bool("trainer.load_critic_only", config.trainer.load_critic_only):
        check_warm_start(config)
    if _number("critic.scale", config.critic.scale) != 1 and as_bool(
        "trainer.load_critic_only", config.trainer.load_critic_only
    ):
        raise UserError(
            "critic.scale has no effect with trainer.load_critic_only, whose weights come later: "
            "convert that checkpoint and give it as critic.model.path"
        )
    if config.critic.constant is not None:
        _number("critic.constant", config.critic.constant)
        if not freeze:
            raise UserError("critic.constant needs critic.freeze=true, or the critic would learn")
    if config.critic.value_head not in HEADS:
        raise UserError(
            f"critic.value_head={config.critic.value_head!r}: choose one of {', '.join(HEADS)}"
        )
    if need_critic(config):
        _refuse_lora(config.critic.model)
    may_be_untrained = untrained or config.critic.constant is not None
    if freeze and not may_be_untrained and need_critic(config):
        model = config.critic.model
        check_trained(model.path, trust_remote_code=model.trust_remote_code)


def _refuse_lora(model: DictConfig) -> None:
    """verl 0.9.1 builds a causal LM's adapter, whatever the model: the value head would be lost."""
    if model.lora_rank or model.lora.get("rank") or model.lora_adapter_path:
        raise UserError(
            "critic.model.lora_rank: verl's adapters have no value head, so a critic cannot learn "
            "with one: leave lora out of critic.model (the actor may have it)"
        )
