"""Measure the true values of states of held-out responses, by Monte Carlo."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.stages import value_truth
    from criticflow.stages.truth_job import measurement

    out = Path(snakemake.output.states).parent
    value_truth.measure_truth(measurement(snakemake), snakemake.params.actor, out)


if __name__ == "__main__":  # vLLM on a GPU imports the program again in its own processes
    run_stage(snakemake, main)
