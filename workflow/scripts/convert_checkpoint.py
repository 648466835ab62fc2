"""Turn the FSDP shards of a finished run into a HuggingFace directory."""

from pathlib import Path

from criticflow.stage import run_stage


def main(snakemake) -> None:
    from criticflow.checkpoint.convert import convert
    from criticflow.run_training import last_checkpoint

    step = last_checkpoint(Path(snakemake.params.checkpoints))
    kind = snakemake.wildcards.kind
    convert(step / kind, Path(snakemake.output.model), kind)


run_stage(snakemake, main)
