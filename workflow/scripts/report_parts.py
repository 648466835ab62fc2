"""Make what the report shows: results table, learning curves, provenance."""

from pathlib import Path

from criticflow.stage import run_stage


def main(snakemake) -> None:
    from criticflow.report.curves import plot_curves
    from criticflow.report.tables import write_provenance, write_results

    write_results(Path(snakemake.input.summary), Path(snakemake.output.results))
    plot_curves([Path(path) for path in snakemake.input.metrics], Path(snakemake.output.curves))
    write_provenance(
        [Path(path) for path in snakemake.input.provenance], Path(snakemake.output.provenance)
    )


run_stage(snakemake, main)
