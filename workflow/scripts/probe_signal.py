"""Probe a base model's signal on a task."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.dialogues import search_engine
    from criticflow.stages import probe
    from criticflow.stages.engine_job import engine_resources

    params = snakemake.params
    task = config.Task.model_validate(params.task)
    probe.probe_signal(
        params.model_path,
        config.Model.model_validate(params.model),
        snakemake.input.train,
        task,
        config.Probe.model_validate(params.probe),
        engine_resources(snakemake),
        Path(snakemake.output.summary).parent,
        title=f"{snakemake.wildcards.model} on {snakemake.wildcards.task}",
        search=search_engine(task, snakemake.input.corpus or None),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
