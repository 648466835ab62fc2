"""What the comparison with stock verl hands to stock verl (``test_whole_runs``) is verl's own."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_module
from whole_runs import stock_overrides, study

from criticflow.training.overrides import Places, verl_overrides


def test_stock_verl_knows_all_that_is_left_of_a_runs_overrides():
    config = study()
    overrides = verl_overrides(
        config.runs["plain"],
        config.models["base"],
        config.tasks["problems"],
        config.resources,
        name="plain",
        seed=0,
        places=Places("base", "critic", Path("data"), Path("checkpoints")),
    )
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=stock_overrides(overrides))
    assert config.trainer.total_training_steps == 2
