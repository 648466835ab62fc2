"""Compare every evaluated model with its base."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.stages import compare

    compare.summarise(
        [Path(path).parent for path in [*snakemake.input.base, *snakemake.input.runs]],
        snakemake.output.summary,
        config.Evaluate.model_validate(snakemake.params.evaluate),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
