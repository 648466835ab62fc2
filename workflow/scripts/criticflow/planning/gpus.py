"""How many GPUs the jobs of a study hold, each and all together.

Three resources of a job say it, since each is read by somebody else:

- ``gpu``: those of the machine that it runs on. On one machine Snakemake starts no more jobs than
  there are GPUs for, and a job takes them (:mod:`criticflow.runtime.devices`). Slurm's executor
  asks for so many in the whole job, wherever they are;
- ``gres``: in place of it, where Slurm is to give a job its GPUs on each of several nodes;
- :data:`TOTAL`: those of all its nodes. Nothing but a cap reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.runtime import slurm
from criticflow.runtime.devices import too_few, visible

TOTAL = "total_gpus"
NO_ENGINES: Mapping[str, int] = MappingProxyType({})
TRAININGS = ("train_run", "train_run_warm", "pretrain_critic")
"""Rules that take ``resources.gpu``; as a module's they may have a prefix."""


def training_resources(resources: Resources, submitted: bool) -> dict[str, int | str | None]:
    """What a rule says of a training's nodes and GPUs; None: nothing of this kind.

    Args:
        submitted: whether it is a cluster's job.
    """
    gpus, nodes = resources.gpu, resources.nodes
    asked: dict[str, int | str | None] = {
        "gpu": gpus,
        "gres": None,
        "tasks": None,
        "nodes": nodes,
        TOTAL: resources.total_gpus,
    }
    if resources.ray_address is not None:  # a client: its nodes and GPUs are that cluster's
        return asked | {"gpu": 0, "nodes": 1}
    if nodes == 1 or not submitted:
        return asked
    if gpus:
        return asked | {"gpu": 0, "gres": f"gpu:{gpus}"}
    # Without GPUs a job has one task for each node, or Slurm would find a second node useless.
    return asked | {"tasks": nodes}


def limit_gpus(
    workflow: Any, trainings: Mapping[str, Resources], engines: Mapping[str, int] = NO_ENGINES
) -> None:
    """Let jobs on this machine take as many GPUs as it has, where the profile does not say.

    A profile's ``resources: gpu`` wins: on a cluster the machine with Snakemake has none.

    Args:
        workflow: Snakemake's, while it reads the rules.
        trainings: what each of them may use, by where it stands in the configuration.
        engines: GPUs of jobs that sample from a model, by where that stands.

    Raises:
        UserError: more than the profile allows. (By itself Snakemake lowers what a job asks for to
            what there is, and says nothing.)
    """
    most = 0
    jobs = [
        (where, "its training takes", training_resources(resources, submits(workflow)))
        for where, resources in trainings.items()
    ]
    jobs += [
        (where, "sampling from it takes", {"gpu": gpus, TOTAL: gpus})
        for where, gpus in engines.items()
    ]
    for where, takes, asked in jobs:
        most = max(most, asked["gpu"])
        for name in ("gpu", TOTAL):
            limit = workflow.global_resources.get(name).value
            if limit is not None and asked[name] > limit:
                raise UserError(
                    f"{where}: {takes} {asked[name]} GPUs, and the profile allows "
                    f"{limit} to all jobs together: lower resources.gpu or resources.nodes in the "
                    f"configuration, or raise `resources: {name}` in the profile"
                )
    limit = workflow.global_resources.get("gpu").value
    if limit is None and most and _here(workflow) and (found := len(visible())) >= most:
        workflow.register_resource("gpu", found)


def require_gpus(workflow: Any, elsewhere: bool = False) -> None:
    """Raise :class:`UserError` if a job is to start that takes more than this machine has.

    Asked as the work starts: a study may be planned, and its report be made, anywhere.

    Args:
        elsewhere: whether trainings are clients of a Ray cluster, which has GPUs of its own.
    """
    if not _here(workflow) or workflow.touch:
        return
    jobs = list(workflow.dag.needrun_jobs())
    nodes = max((job.resources.get("nodes", 1) for job in jobs), default=1)
    if nodes > 1 and slurm.job_id() is None:
        raise UserError(
            f"resources.nodes: a training takes {nodes} nodes, and this is one machine: submit "
            "the study with workflow/profiles/slurm, or set resources.nodes to 1"
        )
    if not jobs or workflow.global_resources.get("gpu").value is not None:
        return
    largest = max(jobs, key=lambda job: job.resources.get("gpu", 0))
    asked, rule = largest.resources.get("gpu", 0), largest.rule.name
    if not asked or (found := len(visible())) >= asked:
        return
    if rule.endswith(TRAININGS) and not elsewhere:
        raise UserError(too_few(asked, found))
    where = "trainings alone run on the cluster of resources.ray_address, " if elsewhere else ""
    raise UserError(
        f"resources.gpu: {where}{rule} takes {asked} {'GPU' if asked == 1 else 'GPUs'} of the "
        f"machine with Snakemake, and there are {found}: start it where there are, on the same "
        "folder; what is done there is not done again here"
    )


def submits(workflow: Any) -> bool:
    """Whether jobs are handed to a cluster, or this is such a job.

    Asked while Snakemake reads the rules, before it has its executor: only that of a cluster has a
    number of nodes (``jobs`` in the profile).
    """
    return workflow.nodes is not None or workflow.remote_exec


def _here(workflow: Any) -> bool:
    """Whether jobs run on this machine, and this is no job itself."""
    return workflow.is_main_process and workflow.nodes is None
