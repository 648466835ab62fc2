"""``python -m criticflow.train OVERRIDES``: verl's PPO training with criticflow's keys.

The same entry point, configuration and overrides as ``python -m verl.trainer.main_ppo``; see
``--help`` and ``--cfg job``. On a machine without an accelerator set ``VERL_PLATFORM=cpu`` and
``trainer.device=cpu``.

    REWARD_MASK_RATIO=0.5 FREEZE_CRITIC=true CRITIC_MODEL_PATH=critic_hf \\
        python -m criticflow.train actor_rollout_ref.model.path=Qwen/Qwen3-0.6B ...
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from criticflow.verl_plugin import FORK, INTERPRETER, PLUGIN


def require_plugin() -> None:
    """Make every verl process of this job, Ray workers included, load the plugin or stop."""
    modules = [name for name in os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",") if name]
    if PLUGIN not in modules:
        os.environ["VERL_USE_EXTERNAL_MODULES"] = ",".join([*modules, PLUGIN])


@contextmanager
def quick_start() -> Iterator[str | None]:
    """Import once what all of verl's processes import, and yield what Ray starts them with.

    None where :data:`FORK` is not set, or where a library has started a thread: Ray then starts
    ordinary Python processes.
    """
    if not os.environ.get(FORK):
        yield None
        return
    import criticflow.verl_plugin.preload  # noqa: F401
    from criticflow.runtime import template

    if "ray" in sys.modules or not template.single_threaded():
        print("quick start: off, since a library has started a thread or imported Ray")
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    interpreter = str(template.start_template(folder))
    os.environ[INTERPRETER] = interpreter
    try:
        yield interpreter
    finally:
        shutil.rmtree(folder)


def main() -> None:
    require_plugin()
    with quick_start() as interpreter:
        _train(interpreter)


def _train(interpreter: str | None) -> None:
    import hydra  # after the environment is set: importing verl loads the plugin
    from omegaconf import DictConfig, open_dict
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from criticflow.errors import UserError
    from criticflow.verl_plugin import settings
    from criticflow.verl_plugin.critic_model import check_models
    from criticflow.verl_plugin.stopping import StoppedEarly
    from criticflow.verl_plugin.task_runner import TaskRunner

    @hydra.main(
        config_path="pkg://criticflow.verl_plugin.config",
        config_name="criticflow_trainer",
        version_base=None,
    )
    def train(config: DictConfig) -> None:
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
        if interpreter is not None:
            with open_dict(config):
                config.ray_kwargs.ray_init.runtime_env = {"py_executable": interpreter}
        try:
            run_ppo(config, task_runner_class=TaskRunner)
        # Ray hands these on with a traceback for their text.
        except StoppedEarly as stopped:
            sys.exit(str(getattr(stopped, "cause", stopped)))
        except UserError as error:
            sys.exit(f"error: {getattr(error, 'cause', error)}")

    train()


if __name__ == "__main__":
    main()
