"""Evaluate a trained critic on the responses of the actor that was trained with it."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.stages import critics
    from criticflow.stages.critic_job import job_critic

    critics.evaluate_critic(
        job_critic(snakemake),
        snakemake.input.samples,
        config.Evaluate.model_validate(snakemake.params.evaluate),
        config.load_config(snakemake.config).resources.device,
        Path(snakemake.output.summary).parent,
        snakemake.wildcards.run,
        int(snakemake.wildcards.seed),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
