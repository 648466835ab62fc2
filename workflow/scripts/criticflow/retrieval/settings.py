"""From a task's configuration to the limits of its dialogues."""

from __future__ import annotations

from criticflow import config
from criticflow.retrieval.dialogue import Limits


def limits(search: config.Search, max_response_length: int) -> Limits:
    """Limits of a dialogue.

    Args:
        max_response_length: tokens of all turns and observations together.
    """
    return Limits(
        max_turns=search.max_turns,
        max_turn_tokens=search.max_turn_tokens,
        max_observation_tokens=search.max_observation_tokens,
        max_response_tokens=max_response_length,
        invalid=search.invalid,
    )
