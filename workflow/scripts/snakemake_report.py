"""Render the Snakemake report of everything that came before it."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.report.snakemake_report import render

    render(
        Path(snakemake.params.snakefile),
        snakemake.config,
        targets=[snakemake.input.page],
        out=Path(snakemake.output.report),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
