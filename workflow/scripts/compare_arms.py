"""Compare the arms of the study over their seeds and problems."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config.names import run_and_seed
    from criticflow.stages import contrasts

    samples = {}
    for path in map(Path, snakemake.input.samples):
        run, seed = run_and_seed(path)
        samples.setdefault(run, {})[seed] = path
    compared = snakemake.params.compared
    contrasts.write_arms(samples, compared, Path(snakemake.output.arms))
    contrasts.write_contrasts(
        samples, compared, snakemake.params.smallest_effect, Path(snakemake.output.contrasts)
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
