"""Keys under ``train.verl`` that verl does not have are errors before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from criticflow.config.load import load_config, merge
from criticflow.errors import UserError
from criticflow.planning.verl_keys import check_verl_keys
from forking_python import forking_python

DEFAULT = Path(__file__).parents[2] / "config" / "config.yaml"


@pytest.fixture
def forked(monkeypatch) -> None:
    """verl's dataclasses are asked for in forks of one process that has imported them."""
    python = forking_python("verl.workers.config", "verl.trainer.config")
    monkeypatch.setattr(sys, "executable", python)


def check(**verl: object) -> None:
    default = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    over = {"runs": {"warm-frozen-m50": {"train": {"verl": verl}}}, "contrasts": []}
    check_verl_keys(load_config(merge(default, over)))


@pytest.mark.seconds
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("actor_rollout_ref.actor.clip_ration", "(perhaps actor_rollout_ref.actor.clip_ratio)"),
        ("trainr.save_freq", "(perhaps trainer)"),
        ("trainer.save_freq.steps", "verl has no key 'trainer.save_freq.steps'"),
        ("algorithm.reward_mask_rate", "(perhaps algorithm.reward_mask_ratio)"),
        ("critic.fsdp.mixed_precison", "verl has no key 'critic.fsdp.mixed_precison'"),
    ],
)
def test_a_key_that_verl_has_not_is_named_with_its_run(key, says):
    with pytest.raises(UserError) as error:
        check(**{key: 1})
    assert str(error.value).startswith("configuration: runs.warm-frozen-m50.train.verl: verl has ")
    assert says in str(error.value)


def test_verls_keys_ours_and_what_lies_below_open_mappings_pass():
    check()
    check(
        **{
            "actor_rollout_ref.actor.clip_ratio": 0.1,
            "algorithm.reward_mask_seed": 7,  # criticflow's
            "critic.model.override_config.attn_implementation": "eager",  # below {}
            "actor_rollout_ref.rollout.engine_kwargs.vllm.max_num_seqs": 4,
            "ray_kwargs.ray_init.num_gpus": 2,  # handed on to ray.init
            "trainer.rollout_data_dir": "dumps",  # null by default
        }
    )


@pytest.mark.seconds
@pytest.mark.usefixtures("forked")
def test_a_field_of_verls_dataclass_passes_although_the_configuration_lacks_it():
    check(**{"critic.fsdp.mixed_precision": {"param_dtype": "fp32"}})


def test_asking_does_not_import_verl():
    code = "import sys; from criticflow.planning.verl_keys import verl_configuration as whole\n"
    code += "assert whole().trainer and 'verl' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
