"""How many parameters a model has, from the headers of its files: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from criticflow.models.directory import model_files


class Weights(NamedTuple):
    """What the tensors of a model take, in numbers of elements, whatever their precision."""

    parameters: int
    """All tensors together; one that is shared (tied embeddings) counts once."""
    largest: int
    """The largest tensor, most often the embedding of the vocabulary."""


def model_weights(directory: Path | str) -> Weights:
    """Sizes of the tensors of a model directory, a hub model's in the local cache included.

    Raises:
        UserError: it has no weights.
    """
    files = model_files(Path(directory))
    sizes = [math.prod(shape) for file in files for shape in _shapes(file)]
    return Weights(sum(sizes), max(sizes))


def _shapes(file: Path) -> Iterator[list[int]]:
    with safe_open(file, framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118 (no mapping)
            yield weights.get_slice(name).get_shape()
