"""Make a task's data splits."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import Task
    from criticflow.stages import data

    task = Task.model_validate(snakemake.params.task)
    data.prepare(snakemake.wildcards.task, task, Path(snakemake.output.manifest).parent)


if __name__ == "__main__":
    run_stage(snakemake, main)
