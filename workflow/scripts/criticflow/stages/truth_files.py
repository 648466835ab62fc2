"""The files that hold the truth about values, which ``value_truth`` writes and ``judge`` reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json

STATE_COLUMNS = [
    "state",
    "prompt_index",
    "sample_index",
    "position",
    "prefix_tokens",
    "n",
    "v_mc",
    "v_se",
]
RESPONSE_COLUMNS = ["prompt_index", "sample_index", "prompt_tokens", "tokens", "score", "correct"]
OF_DIALOGUES = "written"
"""A column of the responses of dialogues with a search engine: 1 where a token is the actor's."""
PIECE_COLUMNS = [
    "state",
    "parent",
    "prompt_index",
    "sample_index",
    "position",
    "prefix_tokens",
    "length",
]
TOKEN_COLUMNS = [
    "state",
    "trajectory",
    "prompt_index",
    "sample_index",
    "token",
    "score",
    "prefix_tokens",
]
CONTINUATION_COLUMNS = ["state", "score", "correct", "length"]
FURTHER = {"piece": PIECE_COLUMNS, "token": TOKEN_COLUMNS}
"""States beside the truth's own, in ``pieces.parquet`` and ``tokens.parquet``; each has a file with
its continuations, ``piece_continuations.parquet`` and ``token_continuations.parquet``."""
ACTOR = ("actor", "actor_seed", "actor_step", "task")
"""What names an actor, in summaries and in rows of ``critics.json``."""


def write_truth(
    folder: Path,
    states: pd.DataFrame,
    continuations: pd.DataFrame,
    summary: dict[str, Any],
    responses: pd.DataFrame | None = None,
    pieces: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    tokens: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> None:
    """``states.parquet``, ``continuations.parquet`` and ``summary.json``, each whole or absent.

    Args:
        responses: those that the states come from, for ``responses.parquet``.
        pieces: next pieces of the states and the continuations from behind them, for
            ``pieces.parquet`` and ``piece_continuations.parquet``.
        tokens: states before each token of some responses and their continuations, for
            ``tokens.parquet`` and ``token_continuations.parquet``.
    """
    tables = {
        "states.parquet": states[STATE_COLUMNS],
        "continuations.parquet": continuations[CONTINUATION_COLUMNS],
    }
    if responses is not None:
        tables["responses.parquet"] = responses[_response_columns(responses)]
    for name, found in (("piece", pieces), ("token", tokens)):
        files = f"{name}s.parquet", f"{name}_continuations.parquet"
        if found is None:
            for file in files:  # those of another truth
                (folder / file).unlink(missing_ok=True)
        else:
            columns = FURTHER[name], CONTINUATION_COLUMNS
            tables |= {
                file: frame[its] for file, frame, its in zip(files, found, columns, strict=True)
            }
    for name, frame in tables.items():
        with replacing(folder / name) as partial:
            frame.to_parquet(partial, index=False)
    write_json(folder / "summary.json", summary)


def read_truth(folder: Path | str) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """States, continuations and summary.

    Raises:
        UserError: something is missing or broken.
    """
    folder = Path(folder)
    try:
        states = pd.read_parquet(folder / "states.parquet", columns=STATE_COLUMNS)
        continuations = pd.read_parquet(
            folder / "continuations.parquet", columns=CONTINUATION_COLUMNS
        )
        summary = read_json(folder / "summary.json")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no truth about values ({error}): make it again with the stage "
            "value_truth, or with criticflow truth"
        ) from error
    return states, continuations, summary


def read_responses(folder: Path | str) -> pd.DataFrame | None:
    """The responses that the states come from; None: they were not kept."""
    path = Path(folder) / "responses.parquet"
    if not path.exists():
        return None
    return pd.read_parquet(path, columns=_response_columns(pq.read_schema(path).names))


def _response_columns(there: Iterable[str]) -> list[str]:
    """Those that are kept, of a table that has the columns ``there``."""
    return [*RESPONSE_COLUMNS, *({OF_DIALOGUES} & set(there))]


def read_further(folder: Path | str, name: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """States of one kind (``piece``, ``token``) and their continuations; None: there are none."""
    path = Path(folder) / f"{name}s.parquet"
    if not path.exists():
        return None
    continuations = path.with_name(f"{name}_continuations.parquet")
    return (
        pd.read_parquet(path, columns=FURTHER[name]),
        pd.read_parquet(continuations, columns=CONTINUATION_COLUMNS),
    )


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 of the vocabulary, tokens with their ids: two models with the same one can read each
    other's tokens."""
    entries = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(entries.encode()).hexdigest()
