"""Make a task's data splits."""

from pathlib import Path

from criticflow.stage import run_stage


def main(snakemake) -> None:
    from criticflow import data
    from criticflow.config import Task

    task = Task.model_validate(snakemake.params.task)
    data.prepare(snakemake.wildcards.task, task, Path(snakemake.output.manifest).parent)


run_stage(snakemake, main)
