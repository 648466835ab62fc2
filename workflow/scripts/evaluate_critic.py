"""Evaluate a trained critic on the responses of the actor that was trained with it."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.saved_critic import SavedCritic
    from criticflow.stages import critics

    params = snakemake.params
    model = config.Model.model_validate(params.model)
    critics.evaluate_critic(
        SavedCritic(
            snakemake.input.critic,
            model,
            params.gamma,
            params.lam,
            snakemake.resources.get("gpu", 0),
        ),
        snakemake.input.samples,
        config.Evaluate.model_validate(params.evaluate),
        config.load_config(snakemake.config).resources.device,
        Path(snakemake.output.summary).parent,
        snakemake.wildcards.run,
        int(snakemake.wildcards.seed),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
