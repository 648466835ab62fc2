"""A model that can be read and cannot speak, for what looks at models without running them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config


def write_toy_model(folder: Path) -> None:
    """Write a model of 1000 parameters into a directory."""
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=100,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
    )
    config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": torch.zeros(1000)}, folder / "model.safetensors")
