"""``python -m criticflow.train`` as a person types it: what it shows, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.slow  # each command imports verl, vLLM and Ray

COMMANDS = {
    "--cfg job --resolve": {"REWARD_MASK_RATIO": "0.25", "CRITIC_MODEL_PATH": "critics/one"},
    "--help": {},
    "algorithm.reward_mask_rate=0.5": {},
    "actor_rollout_ref.model.path=base": {"REWARD_MASK_RATIO": "1.5"},
    "trainer.load_critic_only=true trainer.n_gpus_per_node=2 critic.freeze=true "
    "algorithm.adv_estimator=gae trainer.resume_from_path=old/global_step_7": {},
    "ray_kwargs.ray_init.num_cpus=5 +ray_kwargs.ray_init.num_gpus=1 trainer.device=cpu "
    "trainer.n_gpus_per_node=1 +ray_kwargs.ray_init.include_dashboard=False "
    "algorithm.adv_estimator=grpo actor_rollout_ref.actor.use_dynamic_bsz=true": {},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Exit code, output and errors of each command; they run side by side."""
    folder = tmp_path_factory.mktemp("commands")
    critic = folder / "old" / "global_step_7" / "critic"
    critic.mkdir(parents=True)
    for rank in range(4):
        (critic / f"model_world_size_4_rank_{rank}.pt").touch()
    processes = {
        arguments: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "criticflow.train", *arguments.split()],
            env=os.environ | {"VERL_PLATFORM": "cpu"} | variables,
            cwd=folder,  # where Hydra writes its own log
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments, variables in COMMANDS.items()
    }
    outputs = {name: process.communicate(timeout=300) for name, process in processes.items()}
    return {name: (processes[name].returncode, *outputs[name]) for name in COMMANDS}


def answer(done, start: str) -> tuple[int, str, str]:
    (found,) = (result for arguments, result in done.items() if arguments.startswith(start))
    return found


def test_the_job_is_shown_with_our_keys_and_a_shells_values(done):
    code, output, errors = answer(done, "--cfg job")
    assert code == 0, errors
    job = yaml.safe_load(output)
    assert float(job["algorithm"]["reward_mask_ratio"]) == 0.25
    assert job["algorithm"]["reward_mask_type"] == "bernoulli"
    assert job["algorithm"]["reward_mask_rescale"] is False
    assert job["critic"]["model"]["path"] == "critics/one"
    assert job["critic"]["freeze"] == "false"
    assert job["critic"]["value_head"] == "linear"
    assert job["trainer"]["load_critic_only"] is False
    assert job["ray_kwargs"]["ray_init"]["address"] == "local"
    assert job["algorithm"]["gamma"] == 1.0  # and verl's own


@pytest.mark.parametrize(
    "key", ["reward_mask_ratio", "reward_mask_seed", "freeze", "value_head", "load_critic_only"]
)
def test_help_names_our_keys(done, key):
    code, output, errors = answer(done, "--help")
    assert code == 0, errors
    assert f" {key}: " in output


def test_a_misspelt_key_is_refused(done):
    code, _, errors = answer(done, "algorithm.reward_mask_rate")
    assert code != 0
    assert "Could not override 'algorithm.reward_mask_rate'" in errors


def test_an_impossible_value_is_one_line_that_names_it(done):
    code, _, errors = answer(done, "actor_rollout_ref")
    assert code != 0 and "Traceback" not in errors
    error = "error: algorithm.reward_mask_ratio=1.5: Input should be less than or equal to 1"
    assert errors.splitlines()[-1] == error


def test_a_critic_of_another_world_size_is_one_line_with_the_command_that_helps(done):
    code, _, errors = answer(done, "trainer.load_critic_only")
    assert code != 0 and "Traceback" not in errors
    line = errors.splitlines()[-1]
    assert line.startswith("error: ") and "was written by 4 ranks, this run has 2" in line
    assert "python workflow/scripts/convert_critic_to_hf.py --local_dir " in line
    assert "give critic.model.path=" in line


def test_too_few_cpus_for_ray_are_one_line_and_not_a_silent_wait(done):
    code, _, errors = answer(done, "ray_kwargs")
    assert code != 0
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: Ray has 5 CPUs, training with 1 ranks claims 12 (9 for the queue"
    )
    assert "ray_kwargs.ray_init.num_cpus: 12" in line
