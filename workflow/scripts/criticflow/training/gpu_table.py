"""The expected memory of a study's trainings on GPUs, part by part, for the plan."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from criticflow.config import Config, Resources
from criticflow.models.shape import known_shape
from criticflow.training.footprint import Part, total
from criticflow.training.gpu_footprint import GpuMemory, expected, host_memory


def gpu_tables(config: Config, card: float) -> list[Table]:
    """Runs that take the same stand together; those whose model's shape is not known are left out.

    Args:
        card: GiB of one GPU.
    """
    alike: dict[tuple, tuple[list[str], Resources, GpuMemory, list[Part]]] = {}
    for name, run in config.runs.items():
        found = expected(config, name, card)
        if found is None:
            continue
        shape = known_shape(config.models[run.model])
        resources = config.resources_of(name)
        host = host_memory(run, resources, shape)
        key = (resources, *found.training, *found.rollout, *host)
        alike.setdefault(key, ([], resources, found, host))[0].append(name)
    return [_table(*values) for values in alike.values()]


def _gpus(resources: Resources) -> str:
    each = f"{resources.gpu} GPUs"
    return each if resources.nodes == 1 else f"{resources.nodes} nodes with {each}"


def _table(runs: list[str], resources: Resources, found: GpuMemory, host: list[Part]) -> Table:
    named = ", ".join(runs) if len(runs) < 4 else f"{runs[0]} and {len(runs) - 1} more"
    table = Table(
        title=f"Memory of {named}, GiB: {_gpus(resources)} of {found.card:.0f}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.add_column("part", no_wrap=True)
    for name in ("training", "sampling", "machine"):
        table.add_column(name, justify="right")
    columns = [{part.name: part.gib for part in parts} for parts in (*found[:2], host)]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(
            name, *(f"{column[name]:.1f}" if name in column else "" for column in columns)
        )
    sums = (total(found.training), total(found.rollout), total(host))
    table.add_section()
    table.add_row("in all", *(f"{gib:.0f}" for gib in sums))
    table.caption = f"a vLLM engine keeps {found.sequences:.0f} responses of full length at a time"
    table.caption_justify = "left"
    return table


def missing(config: Config) -> list[str]:
    """Models that runs start from, not made here, whose shape nothing tells."""
    trained = {run.model: config.models[run.model] for run in config.runs.values()}
    return [name for name, model in trained.items() if model.path and not known_shape(model)]
