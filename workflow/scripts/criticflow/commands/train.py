"""``python -m criticflow.train OVERRIDES``: verl's PPO training with criticflow's keys.

The same entry point, configuration and overrides as ``python -m verl.trainer.main_ppo``; see
``--help`` and ``--cfg job``. On a machine without an accelerator set ``VERL_PLATFORM=cpu`` and
``trainer.device=cpu``.

    REWARD_MASK_RATIO=0.5 FREEZE_CRITIC=true CRITIC_MODEL_PATH=critic_hf \\
        python -m criticflow.train actor_rollout_ref.model.path=Qwen/Qwen3-0.6B ...
"""

from __future__ import annotations

import os
import sys
from importlib.resources import files

from criticflow.verl_plugin import PLUGIN


def require_plugin() -> None:
    """Make every verl process of this job, Ray workers included, load the plugin or stop."""
    modules = [name for name in os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",") if name]
    if PLUGIN not in modules:
        os.environ["VERL_USE_EXTERNAL_MODULES"] = ",".join([*modules, PLUGIN])


def main() -> None:
    require_plugin()
    import hydra  # after the environment is set: importing verl loads the plugin
    from omegaconf import DictConfig
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from criticflow.errors import UserError
    from criticflow.verl_plugin import settings
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
        try:
            run_ppo(config, task_runner_class=TaskRunner)
        except StoppedEarly as stopped:  # as Ray hands it on: with a traceback for its text
            sys.exit(str(getattr(stopped, "cause", stopped)))

    train()


if __name__ == "__main__":
    main()
