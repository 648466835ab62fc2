"""Solved dialogues to fine-tune a base model on: its turns as given, the searches really made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from criticflow.errors import UserError
from criticflow.retrieval.corpus import Retriever
from criticflow.retrieval.dialogue import Codec, Dialogue, Limits
from criticflow.retrieval.protocol import FORMATS, SEARCH_END, Format


def solved_dialogue(
    prompt: list[dict],
    solution: str,
    tokenizer: Any,
    limits: Limits,
    retriever: Retriever,
    topk: int,
    used: Format = FORMATS["tags"],
) -> tuple[list[int], list[int]]:
    """Token ids of prompt and dialogue, and 1 where a token is the model's own.

    Args:
        prompt: chat messages.
        solution: what the model writes, all turns in a row; each ends with ``</search>``, the last
            with ``</answer>``. Searches stand between Search-R1's tags, whatever the format.
        used: the format in which the model is to write them.

    Raises:
        UserError: the limits of the dialogue cut it.
    """
    codec = Codec(tokenizer, used)
    text = tokenizer.apply_chat_template(
        prompt, tools=used.tools, tokenize=False, add_generation_prompt=True
    )
    dialogue = Dialogue(codec.ids(text), limits, codec)
    for turn in _turns(solution):
        if dialogue.over:
            break
        dialogue.wrote(codec.ids(_in_format(turn, used)))
        if dialogue.query is not None:
            found = retriever.search([dialogue.query], topk)[0]
            dialogue.observed([one.document.contents for one in found])
    if not dialogue.answered:
        raise UserError(
            f"the solved dialogue {solution!r} does not fit search.max_turns, max_turn_tokens or "
            "max_response_length: raise them"
        )
    return [*dialogue.prompt, *dialogue.tokens], [*[0] * len(dialogue.prompt), *dialogue.written]


def _in_format(turn: str, used: Format) -> str:
    """A turn with Search-R1's tags, as a model writes it in another format."""
    asked = FORMATS["tags"].action(turn)
    if used.tools is None or asked.kind != "search":
        return turn
    return turn[: turn.rindex(FORMATS["tags"].open)] + used.ask(asked.content)


def without_searches(solution: str, share: float, seed: int) -> str:
    """A solution whose searches are left out from one on, for this share of all; else as it is.

    A model that is fine-tuned on such dialogues as well sometimes answers before it can know. Which
    ones follows from the seed and the solution's text.
    """
    *searches, answer = _turns(solution)
    drawn = random.Random(f"{seed}/{solution}")
    if not searches or drawn.random() >= share:
        return solution
    return "".join([*searches[: drawn.randrange(len(searches))], answer])


def _turns(solution: str) -> Sequence[str]:
    parts = solution.split(SEARCH_END)
    return [*(part + SEARCH_END for part in parts[:-1]), parts[-1]]
