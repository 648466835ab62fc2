"""A saved critic: its directory, how it is loaded, and what its values are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from criticflow import config
from criticflow.models.value_head import load_value_model


@dataclass(frozen=True)
class SavedCritic:
    """A critic, before it is loaded.

    Attributes:
        path: directory or hub name.
        model: precision, attention, and whether code that comes with the model may run.
        gamma: discount of the returns that it learned from.
        lam: lambda of the advantages that are shown beside its values.
    """

    path: Path | str
    model: config.Model
    gamma: float = 1.0
    lam: float = 1.0

    def load(self, device: str) -> PreTrainedModel:
        """The model, on ``device``.

        Raises:
            UserError: see :func:`criticflow.models.value_head.load_value_model`.
        """
        return load_value_model(
            self.path,
            dtype=getattr(torch, self.model.dtype),
            attn_implementation=self.model.attn_implementation,
            trust_remote_code=self.model.trust_remote_code,
        ).to(device)

    def tokenizer(self) -> Any:
        """The tokenizer that was saved with it."""
        return AutoTokenizer.from_pretrained(
            self.path, trust_remote_code=self.model.trust_remote_code
        )
