"""What a rule's job measures of an actor's true values."""

from __future__ import annotations

from typing import Any

from criticflow import config
from criticflow.models.dialogues import search_engine
from criticflow.stages.engine_job import engine_resources
from criticflow.stages.value_truth import Measurement


def measurement(snakemake: Any) -> Measurement:
    """The actor, problems and settings of a job that continues states."""
    params = snakemake.params
    task = config.Task.model_validate(params.task)
    return Measurement(
        params.model_path,
        config.Model.model_validate(params.model),
        snakemake.input.test,
        task.max_prompt_length,
        task.max_response_length,
        config.Truth.model_validate(params.truth),
        params.temperature,
        params.gamma,
        engine_resources(snakemake),
        search_engine(task, snakemake.input.corpus or None),
    )
