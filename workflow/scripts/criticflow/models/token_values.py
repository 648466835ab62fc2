"""A critic as a study judges it: loaded from its directory, and its values of many responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from criticflow import config
from criticflow.models.value_head import load_value_model

TOKENS_PER_BATCH = 16_384
"""Tokens of a forward pass, padding included."""


def load_critic(path: Path | str, model: config.Model, device: str) -> PreTrainedModel:
    """A critic on ``device``.

    Args:
        path: directory or hub name.
        model: precision, attention, and whether code that comes with the model may run.

    Raises:
        UserError: see :func:`criticflow.models.value_head.load_value_model`.
    """
    return load_value_model(
        path,
        dtype=getattr(torch, model.dtype),
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
    ).to(device)


@torch.inference_mode()
def token_values(
    critic: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> list[NDArray[np.float64]]:
    """``V(s_t)`` for every token of every response, ``(tokens,)`` each.

    ``s_t`` is the prompt and the first ``t`` tokens of the response, as in verl: the first value is
    the one at the last prompt token, and the state after the last token has none.
    """
    critic.eval()
    lengths = [len(a) + len(b) - 1 for a, b in zip(prompts, responses, strict=True)]
    values: list[Any] = [None] * len(lengths)
    # Longest first: what does not fit into memory fails at once, and little is padded.
    waiting = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while waiting:
        longest = lengths[waiting[0]]
        size = max(1, tokens_per_batch // longest)
        batch, waiting = waiting[:size], waiting[size:]
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for line, row in enumerate(batch):
            tokens[line, : lengths[row]] = torch.tensor([*prompts[row], *responses[row]][:-1])
            mask[line, : lengths[row]] = 1
        output = critic(
            input_ids=tokens.to(critic.device), attention_mask=mask.to(critic.device)
        ).logits[:, :, 0]
        for row, line in zip(batch, output.double().cpu().numpy(), strict=True):
            values[row] = line[len(prompts[row]) - 1 : lengths[row]]
    return values
