"""``criticflow train OVERRIDES``: verl's PPO training with criticflow's keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from criticflow.collection import collect_seldom
from criticflow.errors import UserError
from criticflow.training.forking import forking_python
from criticflow.verl_plugin import FORK, INTERPRETER, PLUGIN
from criticflow.verl_plugin.job_directory import (
    JOB,
    check_temporary_folder,
    job_directory,
    token_file,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

MODULES = "VERL_USE_EXTERNAL_MODULES"
"""Environment variable: modules that each verl process imports."""

_HELP = """\
usage: criticflow train [KEY=VALUE ...]

PPO or GRPO on stock verl: the entry point, configuration and overrides of
python -m verl.trainer.main_ppo, with criticflow's keys besides (below).

input:   actor_rollout_ref.model.path (actor and reference policy), critic.model.path (the actor's
         by default), data.train_files and data.val_files (parquet, as the workflow prepares it);
         REWARD_MASK_RATIO, FREEZE_CRITIC and CRITIC_MODEL_PATH from the environment
output:  checkpoints in trainer.default_local_dir, metrics where trainer.logger says

All keys with their values: criticflow train --cfg job. Hydra's own options: --hydra-help.
Without an accelerator set VERL_PLATFORM=cpu and trainer.device=cpu.

example:
  REWARD_MASK_RATIO=0.5 FREEZE_CRITIC=true CRITIC_MODEL_PATH=critic_hf \\
      criticflow train actor_rollout_ref.model.path=Qwen/Qwen3-0.6B \\
      data.train_files=train.parquet data.val_files=val.parquet
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train in this process and those that it starts; ``arguments`` are Hydra's."""
    if arguments is not None:
        sys.argv[1:] = arguments  # where Hydra looks
    if set(sys.argv[1:]) & {"-h", "--help"}:
        keys = files("criticflow.verl_plugin.config") / "criticflow_trainer.yaml"
        print(_HELP, keys.read_text(encoding="utf-8"), sep="\n", end="")
        return
    try:
        check_temporary_folder()
    except UserError as error:
        sys.exit(f"error: {error}")
    require_plugin()
    collect_seldom()
    with job_directory() as job:
        if os.environ.get(FORK) and (python := forking_python(job)):
            # Ray starts its own programs by the second, and workers with an environment of their
            # own by the first.
            os.environ[INTERPRETER] = sys.executable = python
        train(job)


def require_plugin() -> None:
    """Make every verl process of this job, Ray workers included, load the plugin or stop."""
    modules = [name for name in os.environ.get(MODULES, "").split(",") if name]
    if PLUGIN not in modules:
        os.environ[MODULES] = ",".join([*modules, PLUGIN])


def separate(config: DictConfig, job: Path) -> None:
    """Keep a training apart from all others on its machines: its own Ray unless a cluster is named,
    its own token there, its own sockets everywhere. And give its workers, whoever starts them, the
    plugin that does the same.

    Args:
        config: verl's whole configuration; ``ray_kwargs.ray_init`` is completed.
        job: the job's directory (:mod:`criticflow.verl_plugin.job_directory`).
    """
    from omegaconf import OmegaConf

    init = "ray_kwargs.ray_init"
    address = OmegaConf.select(config, f"{init}.address") or "local"
    OmegaConf.update(config, f"{init}.address", address, force_add=True)
    if address == "local" and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(token_file(job)))
    os.environ[JOB] = str(job)
    for variable in (JOB, MODULES):
        environment = f"{init}.runtime_env.env_vars.{variable}"
        OmegaConf.update(config, environment, os.environ[variable], force_add=True)
    if address == "local" and (interpreter := os.environ.get(INTERPRETER)):
        executable = f"{init}.runtime_env.py_executable"
        OmegaConf.update(config, executable, interpreter, force_add=True)


def train(job: Path) -> None:
    """Read the command line and train, in this job's directory."""
    import hydra  # after the environment is set: importing verl loads the plugin
    import ray
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from criticflow.verl_plugin import settings
    from criticflow.verl_plugin.critic_model import check_models
    from criticflow.verl_plugin.stopping import StoppedEarly
    from criticflow.verl_plugin.task_runner import TaskRunner

    @hydra.main(
        config_path="pkg://criticflow.verl_plugin.config",
        config_name="criticflow_trainer",
        version_base=None,
    )
    def run(config: DictConfig) -> None:
        try:
            settings.check(config)
            check_models(config)
        except UserError as error:
            sys.exit(f"error: {error}")
        agent = config.actor_rollout_ref.rollout.agent
        if agent.agent_loop_config_path is None:
            loops = files("criticflow.verl_plugin.config") / "agent_loops.yaml"
            agent.agent_loop_config_path = str(loops)
        auto_set_device(config)
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(config),
            use_critic=need_critic(config),
        )
        separate(config, job)
        try:
            with ExitStack() as at_end:
                at_end.callback(ray.shutdown)  # before the directory goes
                run_ppo(config, task_runner_class=TaskRunner)
        # Ray hands these on with a traceback for their text.
        except StoppedEarly as stopped:
            sys.exit(str(getattr(stopped, "cause", stopped)))
        except UserError as error:
            sys.exit(f"error: {getattr(error, 'cause', error)}")

    run()
