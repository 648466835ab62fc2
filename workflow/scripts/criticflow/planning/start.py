"""What happens when Snakemake begins to read the workflow, before any rule."""

from __future__ import annotations

from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.workflow import Workflow

from criticflow.collection import collect_seldom
from criticflow.config import Config, load_config
from criticflow.config.load import DESCRIPTION
from criticflow.errors import UserError
from criticflow.planning.gpus import limit_gpus
from criticflow.planning.snakemake_patch import plan_each_rule_once, plan_past_ancient_inputs
from criticflow.planning.tokenizers import check_critics_tokenizers
from criticflow.planning.verl_keys import check_verl_keys
from criticflow.planning.workdir import check_interpreter, claim_workdir
from criticflow.report.description import describe_runs


def start(workflow: Workflow, raw: dict[str, Any]) -> Config:
    """Patch Snakemake's planning, hold the working directory, check configuration and GPUs.

    Args:
        workflow: Snakemake's own object, which the Snakefile has.
        raw: the configuration as Snakemake merged it. A description of the runs is added for the
            first page of Snakemake's report, which can read this dictionary alone.

    Raises:
        WorkflowError: the configuration is wrong, or something that it needs is not here.
    """
    collect_seldom()
    plan_past_ancient_inputs()
    plan_each_rule_once()
    # A job in Slurm may outlive its Snakemake: see run_lock. As a module in another's workflow this
    # one cannot know who else works in the directory.
    if not workflow.remote_exec and workflow.modifier.is_main_snakefile():
        claim_workdir()
    try:
        check_interpreter()
        config = load_config(raw)
        trainings = {f"runs.{run}": config.resources_of(run) for run in config.runs}
        one_node = config.resources.model_copy(update={"nodes": 1})
        limit_gpus(workflow, trainings | {f"critics.{name}": one_node for name in config.critics})
        if workflow.is_main_process:
            check_verl_keys(config)
            check_critics_tokenizers(config)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    raw[DESCRIPTION] = describe_runs(config)
    return config
