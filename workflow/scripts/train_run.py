"""Train one run with one seed."""

from pathlib import Path

from criticflow.config import load_config
from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.planning.sources import training_files
    from criticflow.training.job import Training, train_run

    config, run = load_config(snakemake.config), snakemake.wildcards.run
    corpus = snakemake.input.get("corpus")
    training = Training(
        config,
        run=run,
        seed=int(snakemake.wildcards.seed),
        model_dir=snakemake.params.model_path,
        critic_dir=snakemake.input.get("critic"),
        data_dir=Path(snakemake.params.data_dir),
        run_dir=Path(snakemake.output.metrics).parent,
        checkpoint_dir=Path(snakemake.params.checkpoints),
        manifest=Path(snakemake.input.manifest),
        sources=training_files(config.tasks[config.runs[run].task].kind),
        corpus_dir=Path(corpus) if corpus else None,
    )
    train_run(training)


if __name__ == "__main__":
    # The params are what a training is run again for; it reads the whole configuration.
    # A minute more than training itself has to save.
    save_minutes = load_config(snakemake.config).resources.save_minutes
    run_stage(snakemake, main, grace=60 * (save_minutes + 1))
