"""Measure the gradients of an actor on the responses that are audited, as inner products."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.stages import token_gradients

    params = snakemake.params
    token_gradients.measure_token_products(
        params.model_path,
        config.Model.model_validate(params.model),
        params.temperature,
        config.load_config(snakemake.config).resources.device,
        Path(snakemake.output.products).parent,
    )


if __name__ == "__main__":
    run_stage(snakemake, main)
