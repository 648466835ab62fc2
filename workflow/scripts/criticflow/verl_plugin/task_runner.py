"""verl's controller process, which registers criticflow's trainer before it looks for one."""

from __future__ import annotations

import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1

from criticflow.verl_plugin import settings


@ray.remote
class TaskRunner(TaskRunnerV1.__ray_actor_class__):
    def run(self, config: DictConfig) -> None:
        import criticflow.verl_plugin.trainer  # noqa: F401  (registers the trainer)

        settings.check_cpus(config, ray.cluster_resources().get("CPU", 0))
        super().run(config)
