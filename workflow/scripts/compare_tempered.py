"""Compare trained actors with the base model at their entropy."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.config.names import by_run_and_seed
    from criticflow.stages import tempered

    inputs, params = snakemake.input, snakemake.params
    folders = [
        by_run_and_seed(Path(path).parent for path in paths)
        for paths in (inputs.tempered, inputs.actors)
    ]
    bases = {run: Path(samples).parent for run, samples in params.bases.items()}
    settings = config.Evaluate.model_validate(params.evaluate)
    tempered.write_comparison(*folders, bases, settings, Path(snakemake.output.rows))


if __name__ == "__main__":
    run_stage(snakemake, main)
