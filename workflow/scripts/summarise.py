"""Compare every evaluated model with its base."""

from pathlib import Path

from criticflow.stage import run_stage


def main(snakemake) -> None:
    from criticflow import compare, config

    compare.summarise(
        [Path(path).parent for path in [*snakemake.input.base, *snakemake.input.runs]],
        snakemake.output.summary,
        config.Evaluate.model_validate(snakemake.params.evaluate),
    )


run_stage(snakemake, main)
