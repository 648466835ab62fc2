"""Turn the FSDP shards of a finished run into a HuggingFace directory."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.checkpoint.convert import convert
    from criticflow.training.checkpoints import converting

    kind = snakemake.wildcards.kind
    # No parameter of the rule: nothing is converted again because this changes.
    freed = snakemake.config["resources"]["free_converted"]
    step = snakemake.wildcards.get("step")
    step, kept = None if step is None else int(step), snakemake.params.kept
    with converting(Path(snakemake.params.checkpoints), kind, freed, step, kept) as folder:
        convert(folder, Path(snakemake.output.model), kind)


run_stage(snakemake, main)
