"""Evaluate a trained critic on the responses of the actor that was trained with it."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.stages import critics

    params = snakemake.params
    critics.evaluate_critic(
        snakemake.input.critic,
        config.Model.model_validate(params.model),
        snakemake.input.samples,
        params.gamma,
        config.Evaluate.model_validate(params.evaluate),
        config.load_config(snakemake.config).resources,
        Path(snakemake.output.summary).parent,
        snakemake.wildcards.run,
        int(snakemake.wildcards.seed),
        params.lam,
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
