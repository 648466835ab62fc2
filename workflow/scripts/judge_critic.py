"""Compare one critic's values with the truth of every actor it is judged on."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.saved_critic import SavedCritic
    from criticflow.stages import judge

    params = snakemake.params
    model = config.Model.model_validate(params.model)
    judge.judge_critic(
        SavedCritic(snakemake.input.critic, model, params.gamma, params.lam),
        params.critic,
        [Path(folder) for folder in params.folders],
        config.load_config(snakemake.config).resources.device,
        Path(snakemake.output.rows).parent,
        masked=params.masked,
        gradients=params.gradients,
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
