"""Compare one critic's values with the truth of every actor it is judged on."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.stages import judge

    params = snakemake.params
    judge.judge_critic(
        snakemake.input.critic,
        config.Model.model_validate(params.model),
        [Path(folder) for folder in params.folders],
        params.critic,
        params.gamma,
        config.load_config(snakemake.config).resources,
        Path(snakemake.output.rows).parent,
        masked=params.masked,
        lam=params.lam,
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
