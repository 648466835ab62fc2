"""How far an actor is from the one that a critic learned with: the axis of its staleness."""

from __future__ import annotations

from pathlib import Path

from criticflow import config
from criticflow.errors import UserError
from criticflow.models.policy import load_policy
from criticflow.models.token_kl import token_kl
from criticflow.models.token_values import own_tokens
from criticflow.stages.truth_files import read_responses, read_truth
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
    found = token_kl(
        load_policy(actor, model, device),
        load_policy(learned_with, model, device),
        [list(ids) for ids in responses["prompt_tokens"]],
        [list(ids) for ids in responses["tokens"]],
        summary["temperature"],
    )
    _, own = own_tokens(responses, found)  # what was read is no choice of the actor's
    return staleness.mean_of_tokens(responses["prompt_index"].to_numpy(), own)
