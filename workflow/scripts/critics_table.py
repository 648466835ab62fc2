"""Gather the figures of all critics, and of the references that need none, in one table."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.stages import critics_table

    critics_table.write_critics_table(
        [Path(path) for path in snakemake.input.rows],
        [Path(folder) for folder in snakemake.params.folders],
        Path(snakemake.output.table),
        snakemake.params.gradients,
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
