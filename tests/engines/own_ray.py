"""Start Ray as a training does, by verl's own function, and say in which cluster its tasks run."""

from __future__ import annotations

import os
import stat

import ray
from hydra import compose, initialize_config_module
from verl.trainer.main_ppo import run_ppo

from criticflow.commands.train import separate
from criticflow.verl_plugin.job_directory import JOB, job_directory


@ray.remote
class TaskRunner:
    """In place of verl's."""

    def run(self, config: object) -> None:
        folder = os.environ[JOB]
        mode = os.stat(folder)
        private = stat.S_IMODE(mode.st_mode) == 0o700 and mode.st_uid == os.geteuid()
        print("found address", ray.get_runtime_context().gcs_address, flush=True)
        print("found directory", folder, flush=True)
        print("found private", private, flush=True)


with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
    config = compose("criticflow_trainer", ["actor_rollout_ref.model.path=base"])
with job_directory() as job:
    separate(config, job)
    run_ppo(config, TaskRunner)
    ray.shutdown()
