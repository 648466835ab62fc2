"""An actor or base model as a PyTorch model, for what an engine does not tell: gradients, KL."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from criticflow import config
from criticflow.models.hub import local_copy


def load_policy(
    path: Path | str, model: config.Model, device: str, dtype: str | None = None
) -> PreTrainedModel:
    """The language model at ``path``, on ``device``.

    Args:
        path: a model directory, or the name of a hub model.
        model: precision, attention, revision, and whether code that comes with it may run.
        dtype: another precision than the model's.
    """
    return AutoModelForCausalLM.from_pretrained(
        local_copy(str(path), model.revision),
        dtype=getattr(torch, dtype or model.dtype),
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
    ).to(device)
