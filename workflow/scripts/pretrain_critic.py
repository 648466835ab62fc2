"""Fit a critic offline to sampled returns."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.training.pretrain import Pretraining, pretrain

    params = snakemake.params
    pretrain(
        Pretraining(
            config.PretrainedCritic.model_validate(params.critic),
            name=snakemake.wildcards.critic,
            seed=int(snakemake.wildcards.seed),
            model=config.Model.model_validate(params.model),
            model_path=params.model_path,
            samples=Path(snakemake.input.samples),
            resources=config.load_config(snakemake.config).resources,
            directory=Path(params.checkpoints),
            out=Path(snakemake.output.model),
        )
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
