"""Responses for a person to look at: token by token, with values, advantages and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats.advantage_audit import advantages

COLUMNS = [
    "case",
    "prompt_index",
    "sample_index",
    "prompt",
    "score",
    "correct",
    "token",
    "text",
    "value",
    "advantage",
    "v_mc",
    "v_se",
]
EACH = 2
"""Responses of a case."""

Values = Sequence[NDArray[np.float64]]
Truth = Mapping[tuple[int, int, int], tuple[float, float]]
"""``v_mc`` and ``v_se`` by prompt_index, sample_index and tokens of the response so far."""


def shown_responses(
    responses: pd.DataFrame,
    values: Values,
    tokenizer: Any,
    gamma: float,
    lam: float,
    truth: Truth | None = None,
) -> pd.DataFrame:
    """One row a token of the chosen responses, :data:`COLUMNS`.

    ``value`` is V(s_t) of the state before the token, ``advantage`` that of the token by GAE with
    ``gamma`` and ``lam`` from the true score, before whitening; ``v_mc`` and ``v_se`` where the
    truth of that state is known.

    Args:
        responses: ``prompt_index``, ``sample_index``, ``prompt_tokens``, ``tokens``, ``score`` and
            ``correct``; a row per entry of ``values``.
    """
    parts = []
    for row, case in chosen(responses["correct"].to_numpy(bool), values):
        response = responses.iloc[row]
        where = (int(response["prompt_index"]), int(response["sample_index"]))
        count = len(values[row])
        told = pd.DataFrame({"trajectory": 0, "score": float(response["score"])}, range(count))
        known = [(truth or {}).get((*where, token), (np.nan, np.nan)) for token in range(count)]
        parts.append(
            pd.DataFrame(
                {
                    "case": case,
                    "prompt_index": where[0],
                    "sample_index": where[1],
                    "prompt": tokenizer.decode(list(map(int, response["prompt_tokens"]))),
                    "score": float(response["score"]),
                    "correct": bool(response["correct"]),
                    "token": range(count),
                    "text": texts(tokenizer, response["tokens"]),
                    "value": values[row],
                    "advantage": advantages(told, values[row], lam, gamma),
                    "v_mc": [mean for mean, _ in known],
                    "v_se": [error for _, error in known],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def chosen(correct: NDArray[np.bool_], values: Values) -> list[tuple[int, str]]:
    """Rows to look at, each with what it is a case of, no row twice.

    Right and wrong ones that the critic saw coming, those that surprised it (by its mean value
    over the response), and those in which its value moved most.
    """
    mean = np.array([value.mean() for value in values])
    moved = np.array([np.ptp(value) for value in values])
    rows = np.arange(len(values))
    cases = (
        ("right, as the critic expected", rows[correct], -mean),
        ("wrong, as the critic expected", rows[~correct], mean),
        ("right, to the critic's surprise", rows[correct], mean),
        ("wrong, to the critic's surprise", rows[~correct], -mean),
        ("the critic changes its mind", rows, -moved),
    )
    found: dict[int, str] = {}
    for case, among, order in cases:
        left = [row for row in among[np.argsort(order[among], kind="stable")] if row not in found]
        found |= {int(row): case for row in left[:EACH]}
    return list(found.items())


def texts(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text: a character of several tokens stands at its last."""
    found: list[str] = []
    before = ""
    for end in range(1, len(tokens) + 1):
        whole = tokenizer.decode(list(map(int, tokens[:end])))
        if whole.endswith("\ufffd") and end < len(tokens):
            found.append("")
            continue
        found.append(whole[len(before) :])
        before = whole
    return found
