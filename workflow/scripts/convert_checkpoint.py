"""Turn the FSDP shards of a finished run into a HuggingFace directory."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.checkpoint.convert import convert
    from criticflow.training.checkpoints import converting

    kind = snakemake.wildcards.kind
    params, step = snakemake.params, snakemake.wildcards.get("step")
    step = None if step is None else int(step)
    checkpoints = Path(params.checkpoints)
    with converting(checkpoints, kind, params.freed, step, params.kept) as folder:
        convert(folder, Path(snakemake.output.model), kind)
        if kind == "critic":
            _write_card(snakemake, step)


def _write_card(snakemake, step: int | None) -> None:
    import pandas as pd

    from criticflow.config import Run
    from criticflow.training.critic_card import run_card, write_card

    settings, named = Run.model_validate(snakemake.params.run), snakemake.wildcards
    step = step or settings.train.steps
    metrics = pd.read_parquet(snakemake.input.metrics)
    path = snakemake.params.model_path
    card = run_card(settings, named.run, int(named.seed), step, path, metrics)
    write_card(Path(snakemake.output.model), card)


if __name__ == "__main__":
    run_stage(snakemake, main)
