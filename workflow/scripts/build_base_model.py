"""Make a base model and fine-tune it."""

from pathlib import Path

from criticflow.stage import run_stage


def main(snakemake) -> None:
    from criticflow import base_model
    from criticflow.config import Build

    build = Build.model_validate(snakemake.params.build)
    base_model.build(build, Path(snakemake.input.train), Path(snakemake.output.model))


run_stage(snakemake, main)
