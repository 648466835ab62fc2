"""Make a base model and fine-tune it."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import Build
    from criticflow.stages import base_model

    build = Build.model_validate(snakemake.params.build)
    base_model.build(build, Path(snakemake.input.train), Path(snakemake.output.model))


if __name__ == "__main__":
    run_stage(snakemake, main)
