"""How many parameters a model has, from the headers of its files: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
from huggingface_hub import get_safetensors_metadata, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, NotASafetensorsRepoError
from safetensors import safe_open

from criticflow.errors import UserError
from criticflow.models.directory import check_model_directory, model_files


class Weights(NamedTuple):
    """What the tensors of a model take, in numbers of elements, whatever their precision."""

    parameters: int
    """All tensors together; one that is shared (tied embeddings) counts once."""
    largest: int
    """The largest tensor, most often the embedding of the vocabulary."""


def model_weights(model: str, revision: str | None = None) -> Weights:
    """Sizes of a model's tensors.

    Args:
        model: a model directory, or the name of a model on the hub. Of the latter the copy in the
            hub's cache is looked at, or else the headers of its files on the hub, or, where these
            are no safetensors, its configuration.
        revision: of a hub model: branch, tag or commit; None: the newest.

    Raises:
        UserError: the directory is no model; the hub model is neither cached nor to be reached.
    """
    if check_model_directory(model) is not None:
        return _of_files(model_files(Path(model)))
    if files := _cached(model, revision):
        return _of_files(files)
    try:
        headers = get_safetensors_metadata(model, revision=revision).files_metadata.values()
        return _weights(info.shape for file in headers for info in file.tensors.values())
    except (NotASafetensorsRepoError, httpx.HTTPError, OSError):
        return _of_configuration(model, revision)


def _cached(model: str, revision: str | None) -> list[Path]:
    """The files of a hub model in the hub's cache; none if it is not there, or in part only."""
    try:
        folder = snapshot_download(model, revision=revision, local_files_only=True)
        files = model_files(Path(folder))
    except (LocalEntryNotFoundError, UserError):
        return []
    return files if all(file.is_file() for file in files) else []


def _of_files(files: list[Path]) -> Weights:
    return _weights(shape for file in files for shape in _shapes(file))


def _shapes(file: Path) -> Iterator[list[int]]:
    with safe_open(file, framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118 (no mapping)
            yield weights.get_slice(name).get_shape()


def _of_configuration(model: str, revision: str | None) -> Weights:
    """Sizes of the model that a configuration describes, which is built without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model} is neither in the hub's cache nor to be had from the hub "
            f"({str(error).splitlines()[0]}): check the name and the network, or download it and "
            "give its directory"
        ) from error
    with torch.device("meta"):
        parameters = list(AutoModelForCausalLM.from_config(config).parameters())
    return _weights(parameter.shape for parameter in parameters)


def _weights(shapes: Iterable[Sequence[int]]) -> Weights:
    sizes = [math.prod(shape) for shape in shapes]
    return Weights(sum(sizes), max(sizes))
