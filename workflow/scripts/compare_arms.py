"""Compare the arms of the study over their seeds and problems, and what they cost."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import load_config
    from criticflow.config.names import by_run_and_seed
    from criticflow.stages import contrasts, savings, speed

    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    samples = by_run_and_seed(map(Path, inputs.samples))
    contrasts.write_arms(samples, params.compared, Path(output.arms))
    contrasts.write_contrasts(
        samples, params.compared, params.smallest_effect, Path(output.contrasts)
    )
    config = load_config(snakemake.config)
    files = [by_run_and_seed(map(Path, inputs[name])) for name in ("metrics", "actors", "critics")]
    savings.write_savings(config, *files, Path(output.savings))
    speed.write_speed(config, *files, params.compared, Path(output.speed))


if __name__ == "__main__":
    run_stage(snakemake, main)
