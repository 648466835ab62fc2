"""How many GPUs all jobs of a study may hold together."""

from __future__ import annotations

from typing import Any

from criticflow.errors import UserError
from criticflow.runtime.devices import too_few, visible


def limit_gpus(workflow: Any, asked: int) -> None:
    """Let jobs on this machine take as many GPUs as it has, where the profile does not say.

    A profile's ``resources: gpu`` wins: on a cluster the machine with Snakemake has none.

    Args:
        workflow: Snakemake's, while it reads the rules.
        asked: GPUs of one training job.

    Raises:
        UserError: more than the profile allows. (By itself Snakemake lowers what a job asks for to
            what there is, and says nothing.)
    """
    limit = workflow.global_resources.get("gpu").value
    if limit is not None and asked > limit:
        raise UserError(
            f"resources.gpu: a training job takes {asked} GPUs, and the profile allows {limit} to "
            "all jobs together: lower it in the configuration, or raise `resources: gpu` in the "
            "profile"
        )
    if limit is None and asked and _here(workflow) and (found := len(visible())) >= asked:
        workflow.register_resource("gpu", found)


def require_gpus(workflow: Any) -> None:
    """Raise :class:`UserError` if a job is to start that takes more GPUs than this machine has.

    Asked as the work starts: a study may be planned, and its report be made, anywhere.
    """
    if not _here(workflow) or workflow.global_resources.get("gpu").value is not None:
        return
    asked = max((job.resources.get("gpu", 0) for job in workflow.dag.needrun_jobs()), default=0)
    if asked and not workflow.touch and (found := len(visible())) < asked:
        raise UserError(too_few(asked, found))


def submits(workflow: Any) -> bool:
    """Whether jobs are handed to a cluster, or this is such a job.

    Asked while Snakemake reads the rules, before it has its executor: only that of a cluster has a
    number of nodes (``jobs`` in the profile).
    """
    return workflow.nodes is not None or workflow.remote_exec


def _here(workflow: Any) -> bool:
    """Whether jobs run on this machine, and this is no job itself."""
    return workflow.is_main_process and workflow.nodes is None
