"""How large a model is, from its ``config.json`` and the headers of its safetensors alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from criticflow.files import read_json

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
"""Ends of names of the table of input embeddings."""


def model_size(model: Path) -> dict[str, Any]:
    """``parameters``, and for :class:`criticflow.stats.flops.Size` ``multiplied``, ``layers`` and
    ``width``, None where the model's ``config.json`` does not say them.

    Args:
        model: a HuggingFace directory, or a JSON file that this was written to.
    """
    if model.suffix == ".json":
        return read_json(model)
    sizes: dict[str, int] = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                sizes[name] = math.prod(tensors.get_slice(name).get_shape())
    looked_up = sum(size for name, size in sizes.items() if name.endswith(_EMBEDDINGS))
    parameters, multiplied = sum(sizes.values()), sum(sizes.values()) - looked_up
    config = read_json(model / "config.json") if (model / "config.json").is_file() else {}
    text = config.get("text_config", config)
    tied = config.get("tie_word_embeddings") and "lm_head.weight" not in sizes
    if tied and not _is_critic(config):
        multiplied += looked_up  # the same table is the output layer
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    head = text.get("head_dim") or (hidden // heads if heads and hidden else None)
    return {
        "parameters": parameters,
        "multiplied": multiplied,
        "layers": text.get("num_hidden_layers"),
        "width": heads * head if heads and head else None,
    }


def _is_critic(config: dict[str, Any]) -> bool:
    return any("ForTokenClassification" in name for name in config.get("architectures") or [])
