"""Start Ray as a training does, by verl's own function, and tell in which cluster its tasks run.

python own_ray.py ANSWER
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import ray
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from verl.trainer.main_ppo import run_ppo

from criticflow.commands.train import separate
from criticflow.verl_plugin.job_directory import JOB, job_directory


@ray.remote
class TaskRunner:
    """In place of verl's."""

    def run(self, config: DictConfig) -> None:
        folder = os.environ[JOB]
        found = os.stat(folder)
        answer = {
            "address": ray.get_runtime_context().gcs_address,
            "directory": folder,
            "private": stat.S_IMODE(found.st_mode) == 0o700 and found.st_uid == os.geteuid(),
        }
        Path(config.trainer.default_local_dir).write_text(json.dumps(answer), encoding="utf-8")


with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
    config = compose(
        "criticflow_trainer",
        [
            "actor_rollout_ref.model.path=base",
            f"trainer.default_local_dir={sys.argv[1]}",
        ],
    )
with job_directory() as job:
    separate(config, job)
    run_ppo(config, TaskRunner)
    ray.shutdown()
