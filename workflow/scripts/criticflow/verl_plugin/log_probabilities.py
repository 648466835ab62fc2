"""Log-probabilities of labels, many rows of logits at a time.

Where flash-attention is not installed verl 0.9.1 takes one row after the other in Python, a row
being a token: with a small vocabulary, or on a GPU, that loop costs more than the arithmetic. Here
the same functions take as many rows as memory has room for; each row is reduced by itself, so that
values and gradients are equal bit for bit.
"""

from __future__ import annotations

import torch

CHUNK = {"cpu": 2**17, "cuda": 2**26}
"""Logits that are looked at together: what a core's cache holds, and 256 MB on a GPU (float32)."""


def log_probabilities(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[label] of every row.

    Args:
        logits: (..., vocabulary), of any floating-point type.
        labels: (...), indices into the vocabulary.

    Returns:
        (...), of the logits' type.
    """
    size = logits.shape[-1]
    rows = max(1, CHUNK.get(logits.device.type, CHUNK["cuda"]) // size)
    chunks = zip(
        logits.reshape(-1, size).split(rows), labels.reshape(-1, 1).split(rows), strict=True
    )
    parts = [_of_rows(*chunk) for chunk in chunks]
    return torch.cat(parts).view(labels.shape)


def _of_rows(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if logits.dtype in (torch.float32, torch.float64):
        return logits.gather(-1, labels).squeeze(-1) - torch.logsumexp(logits, dim=-1)
    # x - logsumexp(x) loses too many of the few bits of the other types.
    return torch.log_softmax(logits, dim=-1).gather(-1, labels).squeeze(-1)
