"""``critic_card.json``: what a saved critic is, beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from criticflow.files import write_json

NAME = "critic_card.json"


def write_card(critic: Path, card: dict[str, Any]) -> None:
    """Write the card into a critic's HuggingFace directory.

    ``critic`` and ``kind`` (run or pretrained), ``task``, ``actor`` (whose returns it learned) and
    its hash, ``steps``, ``responses``, ``tokens``, ``gamma``, ``reward_mask`` and ``base_model``.
    """
    write_json(critic / NAME, card)
