"""Measure what an actor makes of the states that another one came to, by Monte Carlo."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.stages import truth_on_states
    from criticflow.stages.truth_job import measurement

    old, out = (Path(part.states).parent for part in (snakemake.input, snakemake.output))
    truth_on_states.measure_on_states(measurement(snakemake), old, snakemake.params.actor, out)


if __name__ == "__main__":  # vLLM on a GPU imports the program again in its own processes
    run_stage(snakemake, main)
