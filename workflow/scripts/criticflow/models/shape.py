"""The size of a model before any of its weights is here: from its ``config.json``, or as stated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from criticflow.config import Model, Shape
from criticflow.files import read_json
from criticflow.models.hub import is_name

_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "num_heads": ("num_attention_heads", "n_head"),
    "vocab_size": ("vocab_size",),
}
"""What families of models call the sizes that every decoder has."""


def known_shape(model: Model) -> Shape | None:
    """The shape of a configured model; None: nothing here tells it.

    A directory's ``config.json`` or that of a hub model in the local cache comes first, then what
    the configuration states. No network is asked. Models that the workflow makes are too small to
    matter.
    """
    if model.build:
        return None
    path = str(model.path)
    folder = cached(path, model.revision) if is_name(path) else Path(path)
    return (directory_shape(folder) if folder else None) or model.shape


def directory_shape(directory: Path | str) -> Shape | None:
    """From a model directory; None: it has no ``config.json``, or one without the usual sizes."""
    file = Path(directory) / "config.json"
    return read_shape(read_json(file)) if file.is_file() else None


def cached(name: str, revision: str | None = None) -> Path | None:
    """The local cache's folder with the ``config.json`` of a hub model, if it is there."""
    from huggingface_hub import try_to_load_from_cache  # slow to import

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """From the contents of a ``config.json``, of a model with several modes its text's part."""
    text = config.get("text_config") or config
    sizes = {name: _first(text, keys) for name, keys in _NAMES.items()}
    if not all(isinstance(size, int) for size in sizes.values()):
        return None
    hidden, heads = sizes["hidden_size"], sizes["num_heads"]
    tied = _first(text, ("tie_word_embeddings",))
    return Shape(
        **sizes,
        intermediate_size=_first(text, ("intermediate_size", "n_inner", "ffn_dim")) or 4 * hidden,
        num_kv_heads=_first(text, ("num_key_value_heads",)) or heads,
        head_size=_first(text, ("head_dim",)) or hidden // heads,
        # Where nothing is said, what takes more main memory.
        tied_embeddings=config.get("tie_word_embeddings", True) if tied is None else tied,
    )


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)
