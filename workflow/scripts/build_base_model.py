"""Make a base model and fine-tune it."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import Build, Task
    from criticflow.stages import base_model

    build = Build.model_validate(snakemake.params.build)
    task, corpus = snakemake.params.task, snakemake.input.corpus
    base_model.build(
        build,
        Path(snakemake.input.train),
        Path(snakemake.output.model),
        Task.model_validate(task) if task else None,
        Path(corpus) if corpus else None,
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
