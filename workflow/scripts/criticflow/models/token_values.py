"""A value model's values of the tokens of many responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

TOKENS_PER_BATCH = 16_384
"""Tokens of a forward pass, padding included."""


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
    # Longest first: if one does not fit into memory, that fails at once; and little is padded.
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


def own_tokens(
    samples: pd.DataFrame, values: Sequence[NDArray[np.float64]]
) -> tuple[pd.DataFrame, Sequence[NDArray[np.float64]]]:
    """Tokens and values without those that the model read (``written`` 0), in dialogues with a
    search engine: PPO has no use for a value there, and no critic is trained on it."""
    if "written" not in samples:
        return samples, values
    own = [np.array(row) > 0 for row in samples["written"]]
    tokens = [np.array(row)[kept] for row, kept in zip(samples["tokens"], own, strict=True)]
    kept = [value[rows] for value, rows in zip(values, own, strict=True)]
    return samples.assign(tokens=tokens), kept
