"""A saved critic: its directory, how it is loaded, and what its values are about."""

from __future__ import annotations

from collections.abc import Sequence
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
        gpus: over how many its layers are laid, where it is loaded on GPUs at all.
    """

    path: Path | str
    model: config.Model
    gamma: float = 1.0
    lam: float = 1.0
    gpus: int = 1

    def load(self, device: str) -> PreTrainedModel:
        """The model, on ``device``; on several GPUs its inputs go to the first of them.

        Raises:
            UserError: see :func:`criticflow.models.value_head.load_value_model`.
        """
        critic = load_value_model(
            self.path,
            dtype=getattr(torch, self.model.dtype),
            attn_implementation=self.model.attn_implementation,
            trust_remote_code=self.model.trust_remote_code,
        )
        return critic.to(device) if self.gpus <= 1 else laid_over(critic, range(self.gpus))

    def tokenizer(self) -> Any:
        """The tokenizer that was saved with it."""
        return AutoTokenizer.from_pretrained(
            self.path, trust_remote_code=self.model.trust_remote_code
        )


def laid_over(critic: PreTrainedModel, gpus: Sequence[int | str]) -> PreTrainedModel:
    """The same critic with its layers laid over GPUs, one after the other.

    Args:
        gpus: their numbers, as torch counts them.
    """
    from accelerate import dispatch_model

    laid = {name: gpus[k] for name, k in placed(critic, len(gpus)).items()}
    return dispatch_model(critic, laid, main_device=gpus[0], force_hooks=True)


def placed(critic: PreTrainedModel, gpus: int) -> dict[str, int]:
    """On which GPU, from 0, each part of a critic is: about as many bytes on each, no layer cut."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import compute_module_sizes

    whole = set(critic._no_split_modules)
    sizes = compute_module_sizes(critic)
    kinds = {name: type(part).__name__ for name, part in critic.named_modules()}
    units = (name for name, part in critic.named_modules() if not [*part.children()])
    layers = (name for name, kind in kinds.items() if kind in whole)
    share = sizes[""] // gpus + max(sizes[name] for name in (*units, *layers))
    return infer_auto_device_map(
        critic, dict.fromkeys(range(gpus), share), no_split_module_classes=list(whole)
    )
