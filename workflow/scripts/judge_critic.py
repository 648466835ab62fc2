"""Compare one critic's values with the truth of every actor it is judged on."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.stages import judge
    from criticflow.stages.critic_job import job_critic

    params = snakemake.params
    moved = params.moved
    judge.judge_critic(
        job_critic(snakemake),
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
