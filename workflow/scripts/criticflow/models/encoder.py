"""Texts as vectors, by a HuggingFace encoder that is used as E5 is (arXiv 2212.03533).

A prefix says whether a text searches or is searched; its vector is the mean of the last layer over
its tokens, divided by its length.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

QUERY, PASSAGE = "query: ", "passage: "


class Encoder:
    """An encoder in float32.

    Args:
        directory: of the model and its tokenizer.
        max_tokens: of a text, its prefix included; the rest is left out.
        device: of torch.
    """

    def __init__(self, directory: Path | str, max_tokens: int, device: str = "cpu") -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval().to(device)
        self.max_tokens, self.device = max_tokens, device
        self._tokenizing = threading.Lock()  # truncation is a state of the tokenizer

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return self.model.config.hidden_size

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, size), float32. Each is encoded alone: in a batch the last bits of its vector
        would depend on the others."""
        return np.concatenate([self._encode([QUERY + text]) for text in texts])

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, size), float32, of one batch."""
        return self._encode([PASSAGE + text for text in texts])

    def _encode(self, texts: list[str]) -> np.ndarray:
        import torch

        with self._tokenizing:
            batch = self.tokenizer(
                texts, padding=True, truncation=True, max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.device)  # fmt: skip
        with torch.inference_mode():
            states = self.model(**batch).last_hidden_state
            present = batch["attention_mask"].unsqueeze(-1)
            mean = (states * present).sum(1) / present.sum(1)
            return torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
