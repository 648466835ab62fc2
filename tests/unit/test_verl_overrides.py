"""A run's settings in verl's words, composed with verl's real configuration."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from criticflow.config import Config, read_config
from criticflow.config.load import load_config
from criticflow.errors import UserError
from criticflow.verl_overrides import verl_overrides
from criticflow.verl_plugin import settings

PROJECT = Path(__file__).parents[2]


def verl_config(config: Config, run: str, critic_dir: str | None = None):
    """verl's whole configuration for a run; an unknown key of verl's fails here."""
    arm = config.runs[run]
    overrides = verl_overrides(
        arm,
        config.models[arm.model],
        config.tasks[arm.task],
        config.resources,
        name=run,
        seed=3,
        model_dir="models/base",
        critic_dir=critic_dir,
        data_dir=Path("data"),
        checkpoint_dir=Path("checkpoints"),
    )
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        return compose("criticflow_trainer", overrides=overrides)


@pytest.fixture(scope="module")
def study() -> Config:
    return read_config(PROJECT / "config" / "config.yaml")


def test_the_cold_run_trains_a_critic_from_the_base_model(study):
    config = verl_config(study, "cold")
    assert config.critic.model.path == "models/base"
    assert config.critic.freeze is False and config.algorithm.reward_mask_ratio == 0.0
    assert config.algorithm.adv_estimator == "gae"
    assert config.trainer.v1.trainer_mode == "criticflow"
    assert config.trainer.n_gpus_per_node == study.resources.ranks
    settings.check(config)


def test_the_warm_run_freezes_the_given_critic_and_masks_rewards(study):
    config = verl_config(study, "warm-frozen-m50", critic_dir="runs/cold/critic")
    assert config.critic.model.path == "runs/cold/critic"
    assert config.actor_rollout_ref.model.path == "models/base"
    assert config.critic.freeze is True
    mask = settings.RewardMaskSettings.read(config)
    assert (mask.ratio, mask.type, mask.rescale, mask.seed) == (0.5, "bernoulli", False, 3)


def test_verl_settings_of_a_run_win_and_may_be_new():
    raw = {
        "models": {"base": {"path": "models/base"}},
        "tasks": {"t": {"kind": "countdown", "source": {"generate": {}}}},
        "runs": {
            "arm": {
                "model": "base",
                "task": "t",
                "algorithm": "grpo",
                "train": {"rollout_n": 4, "verl": {"actor_rollout_ref.actor.clip_ratio": 0.1}},
            }
        },
    }
    config = verl_config(load_config(raw), "arm")
    assert config.actor_rollout_ref.actor.clip_ratio == 0.1
    assert config.algorithm.adv_estimator == "grpo"
    assert config.actor_rollout_ref.rollout.n == 4


def test_environment_variables_set_the_keys_of_a_training_command(monkeypatch):
    monkeypatch.setenv("REWARD_MASK_RATIO", "0.25")
    monkeypatch.setenv("FREEZE_CRITIC", "true")
    monkeypatch.setenv("CRITIC_MODEL_PATH", "critics/one")
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        config = compose("criticflow_trainer", overrides=[])
    assert settings.RewardMaskSettings.read(config).ratio == 0.25
    assert settings.as_bool("critic.freeze", config.critic.freeze) is True
    assert config.critic.model.path == "critics/one"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.reward_mask_ratio=1.5", "not in"),
        ("algorithm.reward_mask_type=token", "reward_mask_type"),
        ("critic.value_head=deep", "value_head"),
        ("critic.freeze=perhaps", "not a boolean"),
    ],
)
def test_impossible_values_are_refused_before_anything_starts(override, message):
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        config = compose("criticflow_trainer", overrides=[override])
    with pytest.raises(UserError, match=message):
        settings.check(config)


def test_misspelt_keys_are_refused():
    with (
        initialize_config_module("criticflow.verl_plugin.config", version_base=None),
        pytest.raises(Exception, match="reward_mask_rate"),
    ):
        compose("criticflow_trainer", overrides=["algorithm.reward_mask_rate=0.5"])


def test_verls_own_keys_keep_their_defaults():
    with initialize_config_module("verl.trainer.config", version_base=None):
        stock = OmegaConf.to_container(compose("ppo_trainer"))
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        ours = OmegaConf.to_container(compose("criticflow_trainer"))
    changed = sorted(different(stock, ours))
    assert changed == [
        "actor_rollout_ref.model._target_",
        "actor_rollout_ref.rollout.agent.default_agent_loop",
        "critic._target_",
        "critic.model._target_",
        "critic.model.path",
        "trainer.v1.trainer_mode",
    ]


def different(stock, ours, where=""):
    """Dotted keys of ``stock`` that have another value in ``ours``."""
    for key, value in stock.items():
        if isinstance(value, dict):
            yield from different(value, ours[key], f"{where}{key}.")
        elif value != ours[key]:
            yield f"{where}{key}"
