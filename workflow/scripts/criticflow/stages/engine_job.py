"""What the engine of a rule's job may use."""

from __future__ import annotations

from typing import Any

from criticflow import config


def engine_resources(snakemake: Any) -> config.Resources:
    """The study's resources, with the GPUs that this job holds in place of a training's."""
    resources = config.load_config(snakemake.config).resources
    return resources.model_copy(update={"gpu": snakemake.resources.get("gpu", 0)})
