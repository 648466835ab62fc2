"""How far an actor is from the one that a critic learned with: the axis of its staleness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from criticflow import config
from criticflow.errors import UserError
from criticflow.models.hub import local_copy
from criticflow.models.token_kl import token_kl
from criticflow.stages.truth_files import OF_DIALOGUES, read_responses, read_truth
from criticflow.stats import staleness
from criticflow.stats.intervals import Figure


def kl_from_learned(
    actor: Path | str, learned_with: Path | str, model: config.Model, truth: Path, device: str
) -> Figure:
    """KL(actor || actor that the critic learned with), in nats a token, on the actor's responses.

    Args:
        actor: whose truth it is; its responses there are the states.
        learned_with: the actor of the critic's own step.
        model: precision, attention and code of both.
        truth: folder with ``responses.parquet``.

    Raises:
        UserError: the truth has no responses.
    """
    responses, summary = read_responses(truth), read_truth(truth)[2]
    if responses is None:
        raise UserError(f"{truth} has no responses.parquet: measure this truth again")
    loaded = [
        AutoModelForCausalLM.from_pretrained(
            local_copy(str(path), model.revision),
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
        ).to(device)
        for path in (actor, learned_with)
    ]
    found = token_kl(
        *loaded,
        [list(ids) for ids in responses["prompt_tokens"]],
        [list(ids) for ids in responses["tokens"]],
        summary["temperature"],
    )
    if OF_DIALOGUES in responses:  # what was read is no choice of the actor's
        own = [np.asarray(written) > 0 for written in responses[OF_DIALOGUES]]
        found = [kl[rows] for kl, rows in zip(found, own, strict=True)]
    return staleness.mean_of_tokens(responses["prompt_index"].to_numpy(), found)
