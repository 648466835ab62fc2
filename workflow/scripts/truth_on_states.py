"""Measure what an actor makes of the states that another one came to, by Monte Carlo."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.dialogues import search_engine
    from criticflow.stages import truth_on_states
    from criticflow.stages.engine_job import engine_resources
    from criticflow.stages.value_truth import Measurement

    params = snakemake.params
    task = config.Task.model_validate(params.task)
    job = Measurement(
        snakemake.input.model,
        config.Model.model_validate(params.model),
        snakemake.input.test,
        task.max_prompt_length,
        task.max_response_length,
        config.Truth.model_validate(params.truth),
        params.temperature,
        params.gamma,
        engine_resources(snakemake),
        search_engine(task, snakemake.input.corpus or None),
    )
    old, out = (Path(part.states).parent for part in (snakemake.input, snakemake.output))
    truth_on_states.measure_on_states(job, old, params.actor, out)


if __name__ == "__main__":  # vLLM on a GPU imports the program again in its own processes
    run_stage(snakemake, main)
