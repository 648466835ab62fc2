"""Checks of a converted model: against the model's own code, and against its manifest."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from criticflow.checkpoint.hashing import block_hashes
from criticflow.checkpoint.labels import AUTO_CLASSES, Kind
from criticflow.errors import UserError
from criticflow.files import read_json
from criticflow.runtime import memory

MANIFEST = "conversion.json"


def _model_class(config: Any, kind: Kind, folder: Path, trust_remote_code: bool) -> Any:
    import transformers

    from criticflow.models.value_head import value_model_class

    if kind == "critic":
        return value_model_class(config, config.value_head, folder, trust_remote_code)[1]
    auto = getattr(transformers, AUTO_CLASSES[kind])
    if type(config) in auto._model_mapping:
        return auto._model_mapping[type(config)]
    return auto


def expected_shapes(
    folder: Path, kind: Kind, trust_remote_code: bool
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by name of the model that ``folder/config.json`` describes, built without data.

    Returns:
        The shapes, and for each tied name the name that it repeats.

    Raises:
        UserError: transformers cannot build the model.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model_class = _model_class(config, kind, folder, trust_remote_code)
        with init_empty_weights(include_buffers=True):
            if hasattr(model_class, "_from_config"):
                model = model_class._from_config(config)
            else:
                model = model_class.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, ImportError, AttributeError) as error:
        reason = textwrap.shorten(str(error), 200)  # some list every family that there is
        raise UserError(
            f"transformers cannot build a model from the checkpoint's config.json: {reason}"
        ) from error
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tied = dict(model.all_tied_weights_keys or {})
    return shapes, tied


def compare_names(
    stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], tied: Iterable[str]
) -> None:
    """Raise :class:`UserError` unless names and shapes are those of the model.

    Args:
        tied: Names that may be absent, being another name of a tensor that is present.
    """
    optional = set(tied)
    missing = sorted(set(expected) - set(stored) - optional)
    surplus = sorted(set(stored) - set(expected))
    if missing or surplus:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has tensors that the model does not know: {_some(surplus)}"] if surplus else []
        raise UserError(
            f"the checkpoint {' and '.join(parts)}: its config.json is not that of this model, or "
            "the saved model is incomplete"
        )
    for name, shape in stored.items():
        if shape != expected[name]:
            raise UserError(
                f"{name} has shape {shape}, but the model of config.json needs {expected[name]}: "
                "restore the right config.json"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def fits_in_memory(nbytes: int) -> bool:
    """Whether a model of ``nbytes`` can be loaded beside its mapped shards."""
    return nbytes * 1.25 + (1 << 30) < memory.available()


def check_directory(folder: Path) -> dict[str, Any]:
    """Verify a converted directory against its ``conversion.json``, and return that.

    Raises:
        UserError: no manifest, a file missing, changed or of another size, weights not listed.
    """
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise UserError(f"{manifest_path} is missing: {folder} was not written by this program")
    manifest = read_json(manifest_path)
    try:
        entries = {entry["name"]: entry for entry in manifest["outputs"]}
        for name, entry in entries.items():
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path} is missing: convert again")
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise UserError(
                    f"{path} has {size} bytes, but was written with {entry['bytes']}: convert again"
                )
            if block_hashes(path) != entry["sha256"]:
                raise UserError(f"{path} has changed since the conversion: convert again")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest_path} is not a conversion manifest ({error!r})") from error
    weights = {path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")}
    if surplus := sorted(weights - set(entries)):
        raise UserError(f"{folder / surplus[0]} is not of this conversion: remove it")
    return manifest
