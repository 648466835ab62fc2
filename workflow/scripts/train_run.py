"""Train one run with one seed."""

from pathlib import Path

from criticflow.runtime.run_lock import may_be_owned
from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import Config
    from criticflow.training.job import train_run

    train_run(
        Config.model_validate(snakemake.params.config),
        run=snakemake.wildcards.run,
        seed=int(snakemake.wildcards.seed),
        model_dir=snakemake.params.model_path,
        critic_dir=snakemake.input.get("critic"),
        data_dir=Path(snakemake.params.data_dir),
        run_dir=Path(snakemake.output.metrics).parent,
        checkpoint_dir=Path(snakemake.params.checkpoints),
        log=Path(snakemake.log[0]),
    )


if __name__ == "__main__":
    # A minute more than training itself has to save.
    save_minutes = snakemake.params.config["resources"]["save_minutes"]
    run_stage(
        snakemake,
        main,
        grace=60 * (save_minutes + 1),
        log_in_use=lambda: may_be_owned(Path(snakemake.params.checkpoints)),
    )
