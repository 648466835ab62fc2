"""Evaluate a base model or a trained actor on held-out problems."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.dialogues import search_engine
    from criticflow.stages import evaluate, tempered
    from criticflow.stages.engine_job import engine_resources

    params = snakemake.params
    task = config.Task.model_validate(params.task)
    settings = config.Evaluate.model_validate(params.evaluate)
    if curve := snakemake.input.get("curve"):  # of a base model beside a trained actor
        settings = tempered.settings_for(settings, Path(snakemake.input.actor), Path(curve))
    job = evaluate.Evaluation(
        params.model_path,
        config.Model.model_validate(params.model),
        snakemake.input.test,
        task.max_prompt_length,
        task.max_response_length,
        settings,
        engine_resources(snakemake),
        search_engine(task, snakemake.input.corpus or None),
    )
    subject = evaluate.Subject(**params.who)
    evaluate.evaluate_model(job, subject, Path(snakemake.output.summary).parent)


if __name__ == "__main__":
    run_stage(snakemake, main)
