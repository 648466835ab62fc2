"""Write the report: one page, and its figures as files."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.config import load_config
    from criticflow.report import page, results
    from criticflow.training.provenance import versions

    inputs, output = snakemake.input, snakemake.output
    files = results.Files(
        *(Path(inputs[name]) for name in results.TABLES),
        metrics=[Path(path) for path in inputs.metrics],
        evaluations=[Path(path).parent for path in inputs.evaluations],
        judged=[Path(path).parent for path in inputs.judged],
        probes=[Path(path).parent for path in inputs.probes],
        provenance=[Path(path) for path in inputs.provenance],
        imported=Path(inputs.imported) if inputs.imported else None,
    )
    found = results.read(load_config(snakemake.config), files)
    page.write(found, versions(), Path(output.page), Path(output.figures))


if __name__ == "__main__":
    run_stage(snakemake, main)
