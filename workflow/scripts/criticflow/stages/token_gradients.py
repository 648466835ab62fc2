"""Inner products of an actor's policy gradients, token by token, on the audited responses.

They are all that is needed of the actor to say how near the policy gradient with a critic's
advantages comes to that with the true ones (:mod:`criticflow.stats.gradient_audit`).
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import replacing
from criticflow.logs import progress
from criticflow.models.policy import load_policy
from criticflow.models.token_gradients import passes, token_products
from criticflow.stages.truth_files import read_further, read_responses

FILE = "token_products.npz"
"""In a truth's folder: ``products`` (tokens, tokens), and ``tokens``, a checksum of whose."""


def measure_token_products(
    model_path: Path | str, model: config.Model, temperature: float, device: str, folder: Path
) -> NDArray[np.float32]:
    """Write ``token_products.npz`` beside a truth's ``tokens.parquet``.

    Args:
        model_path: the actor whose truth it is; loaded in float32.
        temperature: of the actor's rollouts.

    Raises:
        UserError: the truth has no audited responses.
    """
    started = time.monotonic()
    tokens, prompts, responses = _audited(folder)
    actor = load_policy(model_path, model, device, dtype="float32")
    size = sum(weight.numel() for weight in actor.parameters())
    progress(
        f"gradients of {len(tokens)} tokens by {size:,} parameters: "
        f"{passes(size, len(tokens))} times one backward pass a token"
    )
    products = token_products(actor, prompts, responses, temperature)
    with replacing(folder / FILE) as partial, open(partial, "wb") as file:
        np.savez(file, products=products, tokens=_checksum(tokens))
    progress(f"gradients measured in {time.monotonic() - started:.0f} s")
    return products


def read_token_products(folder: Path | str) -> NDArray[np.float64] | None:
    """Inner products of the gradients of the audited tokens; None: they were not measured.

    Raises:
        UserError: they are of other tokens than the truth's.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    found = read_further(folder, "token")
    with np.load(path) as file:
        products, tokens = file["products"].astype(np.float64), str(file["tokens"])
    if found is None or tokens != _checksum(found[0]):
        raise UserError(
            f"{path} is of other tokens than the truth beside it: delete it, or measure it again"
        )
    return products


def _audited(folder: Path) -> tuple[pd.DataFrame, list[list[int]], list[list[int]]]:
    """The audited tokens, and prompt and tokens of each of their responses."""
    found, sampled = read_further(folder, "token"), read_responses(folder)
    if found is None or sampled is None or not len(found[0]):
        raise UserError(
            f"{folder} has no audited responses, whose gradients could be compared: measure the "
            "truth with `truth.audited` (`criticflow truth --audited`)"
        )
    tokens = found[0]
    of = ["prompt_index", "sample_index"]
    names = tokens.drop_duplicates("trajectory")[of]
    rows = sampled.set_index(of).loc[list(names.itertuples(index=False, name=None))]
    return (
        tokens,
        [list(map(int, ids)) for ids in rows["prompt_tokens"]],
        [list(map(int, ids)) for ids in rows["tokens"]],
    )


def _checksum(tokens: pd.DataFrame) -> str:
    """SHA-256 of the states before all tokens."""
    found = hashlib.sha256()
    for prefix in tokens["prefix_tokens"]:
        found.update(np.asarray([len(prefix), *prefix], dtype=np.int64).tobytes())
    return found.hexdigest()
