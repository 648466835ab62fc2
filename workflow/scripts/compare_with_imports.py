"""Refuse to train beside imported runs that were made from another base model or other data."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow.exchange.compare import compare_with_imports

    inputs, params = snakemake.input, snakemake.params
    compare_with_imports(
        [Path(path) for path in inputs.records],
        params.model_path,
        params.revision,
        Path(inputs.data[0]).parent,
        params.filtered,
        Path(snakemake.output.same),
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
