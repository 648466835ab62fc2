"""A model directory, checked before anything expensive reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from criticflow.errors import UserError
from criticflow.files import read_json
from criticflow.models.hub import is_name

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def check_model_directory(path: Path | str) -> dict[str, Any] | None:
    """Read a model directory's ``config.json``, and the headers of its safetensors files.

    Returns:
        The model's configuration; None for the name of a model on the hub, which is not looked at.

    Raises:
        UserError: the directory, its configuration, weights or tokenizer is missing or broken.
    """
    directory = Path(path)
    if is_name(path):
        return None
    if not directory.is_dir():
        raise UserError(f"{path}: there is no such model directory")
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory / 'config.json'} is missing: {path} is no model directory")
    config = read_json(directory / "config.json")
    if not isinstance(config, dict) or not config.get("architectures"):
        raise UserError(f"{directory / 'config.json'} names no architecture: make the model again")
    for weights in model_files(directory):
        _check_weights(weights)
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise UserError(f"{path} has no tokenizer (tokenizer.json): copy it from the base model")
    if (directory / "tokenizer.json").is_file():
        read_json(directory / "tokenizer.json")
    return config


def model_files(directory: Path) -> list[Path]:
    """A model directory's safetensors files, whether they are there or not.

    Raises:
        UserError: there is none, and no index that names some.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index} has no weight_map: make the model again")
        return [directory / name for name in sorted(set(weight_map.values()))]
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise UserError(f"{directory} has no weights (*.safetensors): make the model again")
    return found


def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing, although the index names it: make the model again")
    try:
        # Reads the header and compares it with the file's size, not the values.
        with safe_open(path, framework="numpy") as weights:
            empty = not list(weights.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is broken ({error}): make the model again") from error
    if empty:
        raise UserError(f"{path} holds no tensor: make the model again")
