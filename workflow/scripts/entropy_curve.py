"""Measure the entropy of a base model by temperature."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.dialogues import search_engine
    from criticflow.stages import evaluate, tempered
    from criticflow.stages.engine_job import engine_resources

    params = snakemake.params
    task = config.Task.model_validate(params.task)
    job = evaluate.Evaluation(
        params.model_path,
        config.Model.model_validate(params.model),
        snakemake.input.problems,
        task.max_prompt_length,
        task.max_response_length,
        config.Evaluate(),
        engine_resources(snakemake),
        search_engine(task, snakemake.input.corpus or None),
    )
    settings = config.Tempered.model_validate(params.tempered)
    tempered.write_entropy_curve(job, settings, Path(snakemake.output.curve))


if __name__ == "__main__":  # vLLM on a GPU imports the program again in its own processes
    run_stage(snakemake, main)
