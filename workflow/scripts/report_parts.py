"""Make what the report shows: tables, learning curves, what the base model wrote."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.report.curves import plot_curves
    from criticflow.report.probe_page import write_probe
    from criticflow.report.provenance_page import write_provenance
    from criticflow.report.tables import write_critics, write_results
    from criticflow.training.provenance import versions

    def paths(name: str) -> list[Path]:
        return [Path(path) for path in snakemake.input.get(name)]

    summary = Path(snakemake.input.summary)
    write_results(summary, paths("metrics"), Path(snakemake.output.results))
    plot_curves(paths("metrics"), Path(snakemake.output.curves))
    write_critics(paths("critics"), Path(snakemake.output.critics))
    write_probe(paths("probes"), Path(snakemake.output.probe))
    write_provenance(paths("provenance"), versions(), Path(snakemake.output.provenance))


if __name__ == "__main__":
    run_stage(snakemake, main)
