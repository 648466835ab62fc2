"""What happens when Snakemake begins to read the workflow, before any rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.workflow import Workflow

from criticflow.config import Config, load_config
from criticflow.errors import UserError
from criticflow.planning.snakemake_patch import plan_past_ancient_inputs
from criticflow.planning.sources import link_sources
from criticflow.planning.workdir import claim_workdir


def start(workflow: Workflow, raw: Mapping[str, Any]) -> Config:
    """Patch Snakemake's planning, hold the working directory, check configuration and GPUs.

    Args:
        workflow: Snakemake's own object, which the Snakefile has.
        raw: the configuration as Snakemake merged it.

    Raises:
        WorkflowError: the configuration is wrong, or asks for more GPUs than the profile allows.
    """
    plan_past_ancient_inputs()
    if not workflow.remote_exec:  # a job in Slurm may outlive its Snakemake: see run_lock
        claim_workdir()
    link_sources()
    try:
        config = load_config(raw)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    check_gpus(workflow, config)
    return config


def check_gpus(workflow: Workflow, config: Config) -> None:
    """By itself Snakemake lowers what a job asks for to what the profile allows, without a word.

    Raises:
        WorkflowError: a training job asks for more.
    """
    limit = workflow.global_resources.get("gpu").value
    if limit is not None and config.resources.gpu > limit:
        raise WorkflowError(
            f"resources.gpu: a training job takes {config.resources.gpu} GPUs, and the profile "
            f"allows {limit} to all jobs together: lower the one or raise `resources: gpu` in the "
            "other"
        )
