"""Compare the arms of the study over their seeds and problems, and what they cost."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import load_config
    from criticflow.config.names import by_run_and_seed
    from criticflow.stages import contrasts, savings

    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    samples = by_run_and_seed(map(Path, inputs.samples))
    contrasts.write_arms(samples, params.compared, Path(output.arms))
    contrasts.write_contrasts(
        samples, params.compared, params.smallest_effect, Path(output.contrasts)
    )
    savings.write_savings(
        load_config(snakemake.config),
        by_run_and_seed(map(Path, inputs.metrics)),
        by_run_and_seed(map(Path, inputs.critics)),
        Path(output.savings),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
