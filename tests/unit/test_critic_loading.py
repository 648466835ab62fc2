"""A warm start's checkpoint is checked before any worker touches it."""

import pytest
import torch
from hydra import compose, initialize_config_module
from transformers import Qwen3Config

from criticflow.errors import UserError
from criticflow.verl_plugin import settings
from criticflow.verl_plugin.critic_loading import check_architecture, critic_folder, own_checkpoint
from criticflow.verl_plugin.workers import shard_names


def checkpoint(path, folder="critic", ranks=2):
    """A directory that looks like what ``ranks`` ranks of verl saved at step 7."""
    critic = path / "global_step_7" / folder
    critic.mkdir(parents=True)
    for rank in range(ranks):
        (critic / f"model_world_size_{ranks}_rank_{rank}.pt").touch()
    return critic


@pytest.mark.parametrize("folder", ["critic", "Critic"])
def test_both_spellings_are_found(tmp_path, folder):
    critic = checkpoint(tmp_path, folder)
    assert critic_folder(str(tmp_path / "global_step_7"), world_size=2) == critic


def test_a_path_without_a_step_is_refused(tmp_path):
    checkpoint(tmp_path)
    with pytest.raises(UserError, match="global_step_N"):
        critic_folder(str(tmp_path), world_size=2)
    with pytest.raises(UserError, match="global_step_N"):
        critic_folder(None, world_size=2)


def test_a_checkpoint_without_critic_is_refused(tmp_path):
    (tmp_path / "global_step_7" / "actor").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no critic"):
        critic_folder(str(tmp_path / "global_step_7"), world_size=2)


def test_another_world_size_names_the_command_that_helps(tmp_path):
    critic = checkpoint(tmp_path, ranks=4)
    with pytest.raises(UserError, match="written by 4 ranks, this run has 2") as error:
        critic_folder(str(tmp_path / "global_step_7"), world_size=2)
    assert f"convert_critic_to_hf.py --local_dir {critic} --target_dir {critic}_hf" in str(
        error.value
    )
    assert f"critic.model.path={critic}_hf" in str(error.value)


def test_a_missing_shard_is_named(tmp_path):
    critic = checkpoint(tmp_path)
    (critic / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(UserError, match="lacks 1 of 2 rank files: rank 1"):
        critic_folder(str(tmp_path / "global_step_7"), world_size=2)


def shape(**changes):
    """The configuration of a small critic."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 50}
    return Qwen3Config(**(sizes | {"num_attention_heads": 2, "num_key_value_heads": 1} | changes))


@pytest.fixture
def warm_start(tmp_path):
    """A function: verl's configuration for a warm start from a checkpoint of 2 ranks."""
    critic = checkpoint(tmp_path / "cold")
    shape().save_pretrained(critic / "huggingface")
    shape().save_pretrained(tmp_path / "base")

    def config(*overrides):
        settings_here = [
            "trainer.load_critic_only=true",
            f"trainer.resume_from_path={tmp_path}/cold/global_step_7",
            f"trainer.default_local_dir={tmp_path}/warm",
            f"critic.model.path={tmp_path}/base",
            "algorithm.adv_estimator=gae",
            "trainer.n_gpus_per_node=2",
            "critic.freeze=true",
        ]
        with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
            return compose("criticflow_trainer", overrides=[*settings_here, *overrides])

    return config


def test_a_fitting_warm_start_is_accepted_though_the_base_model_has_no_head(warm_start):
    config = warm_start()
    settings.check(config)
    assert settings.as_bool("critic.allow_untrained", config.critic.allow_untrained)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.resume_from_path=null", "global_step_N"),
        ("trainer.resume_from_path=elsewhere/global_step_7", "holds no critic"),
        ("trainer.n_gpus_per_node=4", "written by 2 ranks, this run has 4.*convert_critic_to_hf"),
        ("trainer.nnodes=2", "written by 2 ranks, this run has 4"),
        ("critic.value_head=mlp", "value_head=linear, this run's critic value_head=mlp"),
        ("algorithm.adv_estimator=grpo", "no critic"),
    ],
)
def test_an_unfit_warm_start_is_refused_before_anything_starts(warm_start, override, message):
    with pytest.raises(UserError, match=message):
        settings.check(warm_start(override))


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"]
)
def test_a_critic_of_another_size_is_refused(warm_start, tmp_path, key):
    shape(**{key: 128}).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=f"{key}=.*, this run's critic {key}=128"):
        settings.check(warm_start())


def test_a_critic_of_another_family_is_refused(tmp_path):
    critic = checkpoint(tmp_path)
    shape().save_pretrained(critic / "huggingface")
    with pytest.raises(UserError, match="model_type=qwen3, this run's critic model_type=llama"):
        check_architecture(critic, shape().to_dict() | {"model_type": "llama"}, "linear")


def test_an_incomplete_checkpoint_is_refused(warm_start, tmp_path):
    (tmp_path / "cold/global_step_7/critic/huggingface/config.json").unlink()
    with pytest.raises(UserError, match="incomplete"):
        settings.check(warm_start())


def test_a_runs_own_checkpoint_makes_its_warm_start_irrelevant(warm_start, tmp_path):
    (tmp_path / "warm" / "global_step_3").mkdir(parents=True)
    (tmp_path / "warm" / "latest_checkpointed_iteration.txt").write_text("3")
    gone = "trainer.resume_from_path=elsewhere/global_step_7"
    config = warm_start(gone)
    settings.check(config)
    assert own_checkpoint(config.trainer) == str(tmp_path / "warm" / "global_step_3")
    with pytest.raises(UserError, match="holds no critic"):
        settings.check(warm_start(gone, "trainer.resume_mode=disable"))


def test_naming_a_shards_tensors_takes_none_of_them_to_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save({"score.weight": torch.zeros(2), "embed": torch.zeros(3)}, tmp_path / "shard.pt")
    assert shard_names(tmp_path / "shard.pt") == ["embed", "score.weight"]
