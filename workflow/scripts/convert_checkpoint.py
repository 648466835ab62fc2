"""Turn the FSDP shards of a finished run into a HuggingFace directory."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.checkpoint.convert import convert
    from criticflow.training.checkpoints import converting

    kind = snakemake.wildcards.kind
    params = snakemake.params
    with converting(Path(params.checkpoints), kind, params.freed) as folder:
        convert(folder, Path(snakemake.output.model), kind)


if __name__ == "__main__":
    run_stage(snakemake, main)
