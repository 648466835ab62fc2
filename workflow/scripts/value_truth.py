"""Measure the true values of states of held-out responses, by Monte Carlo."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.dialogues import search_engine
    from criticflow.stages import value_truth
    from criticflow.stages.engine_job import engine_resources

    params = snakemake.params
    task = config.Task.model_validate(params.task)
    job = value_truth.Measurement(
        params.model_path,
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
    value_truth.measure_truth(job, params.actor, Path(snakemake.output.states).parent)


if __name__ == "__main__":  # vLLM on a GPU imports the program again in its own processes
    run_stage(snakemake, main)
