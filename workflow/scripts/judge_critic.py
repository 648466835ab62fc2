"""Compare one critic's values with the truth of every actor it is judged on."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.models.saved_critic import SavedCritic
    from criticflow.stages import judge

    params = snakemake.params
    moved = params.moved
    model = config.Model.model_validate(params.model)
    judge.judge_critic(
        SavedCritic(
            snakemake.input.critic,
            model,
            params.gamma,
            params.lam,
            snakemake.resources.get("gpu", 0),
        ),
        params.critic,
        [Path(folder) for folder in params.folders],
        config.load_config(snakemake.config).resources.device,
        Path(snakemake.output.rows).parent,
        masked=params.masked,
        gradients=params.gradients,
        moved=moved
        and judge.Moved(
            Path(moved["learned_with"]),
            {Path(folder): Path(actor) for folder, actor in moved["actors"].items()},
            {Path(folder): Path(drifted) for folder, drifted in moved["drifted"].items()},
        ),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
