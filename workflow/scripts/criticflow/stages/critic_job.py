"""The critic of a rule's job."""

from __future__ import annotations

from typing import Any

from criticflow import config
from criticflow.models.saved_critic import SavedCritic


def job_critic(snakemake: Any) -> SavedCritic:
    """The critic that a job judges, laid over the GPUs that the job holds."""
    params = snakemake.params
    return SavedCritic(
        snakemake.input.critic,
        config.Model.model_validate(params.model),
        params.gamma,
        params.lam,
        snakemake.resources.get("gpu", 0),
    )
