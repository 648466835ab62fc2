"""Fit a critic offline to sampled returns."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.training.critic_fit import pretrain

    params = snakemake.params
    pretrain(
        config.PretrainedCritic.model_validate(params.critic),
        config.Model.model_validate(params.model),
        params.model_path,
        Path(snakemake.input.samples),
        int(snakemake.wildcards.seed),
        config.load_config(snakemake.config).resources,
        Path(params.checkpoints),
        Path(snakemake.output.model),
        snakemake.wildcards.critic,
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
