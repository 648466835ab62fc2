"""TODO."""

from criticflow.stage import run_stage


def main(snakemake) -> None:
    raise NotImplementedError


run_stage(snakemake, main)
