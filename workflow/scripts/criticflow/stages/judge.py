"""A critic against the truth: how near its values come to the true values of actors' states.

Needs the critic's HuggingFace directory and transformers, neither verl nor vLLM: any model with a
value head will do (:func:`criticflow.models.value_head.load_value_model`) whose tokenizer is the
actor's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.errors import UserError
from criticflow.files import replacing, write_json
from criticflow.logs import progress
from criticflow.models.directory import check_model_directory
from criticflow.models.saved_critic import SavedCritic
from criticflow.models.token_values import own_tokens, token_values
from criticflow.stages.actor_distance import kl_from_learned
from criticflow.stages.shown_responses import COLUMNS, shown_responses
from criticflow.stages.token_gradients import read_token_products
from criticflow.stages.truth_files import (
    ACTOR,
    OF_DIALOGUES,
    read_further,
    read_responses,
    read_truth,
    vocabulary_hash,
)
from criticflow.stats import staleness, truth_table, value_rows, value_truth


@dataclass(frozen=True)
class Moved:
    """Actors of one run at several steps, for a critic of one of them.

    Attributes:
        learned_with: directory of the actor of the critic's own step.
        actors: by folder of their truth, directories of the actors.
        drifted: by the same folder, for later actors, that of its truth on the states of the actor
            that the critic learned with (:mod:`criticflow.stages.truth_on_states`).
    """

    learned_with: Path
    actors: Mapping[Path, Path]
    drifted: Mapping[Path, Path] = field(default_factory=dict)


def judge_critic(
    critic: SavedCritic,
    identity: Mapping[str, Any],
    truths: Sequence[Path],
    device: str,
    out_dir: Path | str,
    masked: float = 0.0,
    gradients: bool = True,
    moved: Moved | None = None,
) -> list[dict[str, Any]]:
    """Write ``values.parquet``, ``responses.parquet`` and ``rows.json`` to ``out_dir``.

    ``values.parquet``: ``actor``, ``actor_seed``, ``actor_step``, ``task``, ``state`` and
    ``value``, V(s) of every state of every actor. ``responses.parquet``: some of the responses
    that the states come from, token by token (:mod:`criticflow.stages.shown_responses`).

    Args:
        critic: the truth is taken at its gamma.
        identity: ``critic``, ``kind``, ``critic_seed`` and ``critic_step``, for the rows.
        truths: folders of :mod:`criticflow.stages.value_truth`.
        masked: share of trajectories whose reward was 0 while the critic learned, unrescaled. Such
            a critic estimates (1 - masked) V^pi, and is compared with that as well
            (``against_masked``).
        gradients: compare policy gradients too, where a truth has those of its tokens
            (:mod:`criticflow.stages.token_gradients`).
        moved: actors of other steps of the critic's run: rows on them say how far they are
            (``kl_from_learned``), and on later ones why the critic is wrong (``staleness``: drift
            of values and shift of states, :func:`criticflow.stats.staleness.drift_and_shift`).

    Returns:
        The rows: of the critic, and of its own values permuted between prompts, per actor. Where a
        truth has next pieces, ``ranking`` says how the critic chooses among them
        (:func:`criticflow.stats.value_ranking.ranking`); where it has audited tokens,
        ``advantages`` how near its advantages come to the true ones
        (:func:`criticflow.stats.advantage_audit.audit`).

    Raises:
        UserError: the critic or a truth is missing or broken, or their tokenizers differ.
    """
    check_model_directory(critic.path)
    tokenizer = critic.tokenizer()
    found = [read_truth(folder) for folder in truths]
    for folder, (_, _, summary) in zip(truths, found, strict=True):
        _check_tokenizer(critic, tokenizer, folder, summary)
    loaded = critic.load(device)
    rows, tables, looked_at, aged = [], [], [], {}
    for folder, (states, continuations, summary) in zip(truths, found, strict=True):
        actor = {key: summary[key] for key in ACTOR}
        values = state_values(loaded, states)
        tables.append(pd.DataFrame({**actor, "state": states["state"], "value": values}))
        truth = truth_table.with_truth(states, continuations, critic.gamma)
        judged_on = {**actor, "gamma": critic.gamma}
        further = [
            (found, state_values(loaded, found[0])) if found and len(found[0]) else None
            for found in (read_further(folder, "piece"), read_further(folder, "token"))
        ]
        products = read_token_products(folder) if gradients else None
        new = value_rows.critic_rows(
            identity, judged_on, truth, values, continuations, *further, products
        )
        if masked:
            kept = truth_table.scaled(truth, 1 - masked)
            new[0]["against_masked"] = {"factor": 1 - masked, **value_truth.figures(kept, values)}
        rows += new
        if moved and folder in moved.actors:
            new[0]["kl_from_learned"] = kl_from_learned(
                moved.actors[folder], moved.learned_with, critic.model, folder, device
            )
            aged[folder] = (new[0], truth, values)
        share = new[0]["share_explained"]["value"]
        shown = "undefined" if share is None else f"{share:.3f}"
        if (responses := read_responses(folder)) is not None:
            some = with_values(loaded, tokenizer, responses, truth, critic.gamma, critic.lam)
            looked_at.append(some.assign(**actor))
        progress(f"{identity['critic']} on {actor['actor']}: share explained {shown}")
    if moved:
        _add_staleness(aged, moved, critic.gamma)
    _write(Path(out_dir), rows, tables, looked_at)
    return rows


def _add_staleness(
    judged: Mapping[Path, tuple[dict[str, Any], pd.DataFrame, Any]], moved: Moved, gamma: float
) -> None:
    """Give the rows of later actors drift and shift, those of the others None.

    Args:
        judged: by folder of the truth: the row, the states with their truth, the critic's values.
    """
    for folder, (row, new, new_values) in judged.items():
        row["staleness"] = None
        if folder not in moved.drifted:
            continue
        own = next(other for other in judged if moved.actors[other] == moved.learned_with)
        _, old, values = judged[own]
        states, continuations, _ = read_truth(moved.drifted[folder])
        drifted = truth_table.with_truth(states, continuations, gamma)
        found = staleness.drift_and_shift(old, drifted, new, values, new_values)
        row["staleness"] = {part: found[part] for part in ("drift", "shift")}


def _check_tokenizer(
    critic: SavedCritic, tokenizer: Any, truth: Path, summary: Mapping[str, Any]
) -> None:
    if summary["vocabulary"] != vocabulary_hash(tokenizer):
        raise UserError(
            f"{critic.path} has another tokenizer than the actor of {truth}: a critic can only be "
            "judged on an actor whose tokens it knows"
        )


def _write(
    out: Path,
    rows: list[dict[str, Any]],
    values: list[pd.DataFrame],
    responses: list[pd.DataFrame],
) -> None:
    with replacing(out / "values.parquet") as partial:
        pd.concat(values, ignore_index=True).to_parquet(partial, index=False)
    empty = pd.DataFrame(columns=[*ACTOR, *COLUMNS])
    with replacing(out / "responses.parquet") as partial:
        table = pd.concat(responses, ignore_index=True) if responses else empty
        table.to_parquet(partial, index=False)
    write_json(out / "rows.json", rows)


def with_values(
    critic: Any,
    tokenizer: Any,
    responses: pd.DataFrame,
    truth: pd.DataFrame,
    gamma: float,
    lam: float,
) -> pd.DataFrame:
    """Some of an actor's responses token by token, beside the truth of their states."""
    prompts, tokens = list(responses["prompt_tokens"]), list(responses["tokens"])
    by_name = responses.set_index(["prompt_index", "sample_index"])
    known = {}
    for state in truth.itertuples():
        where = (state.prompt_index, state.sample_index)
        length = len(state.prefix_tokens) - len(by_name["prompt_tokens"][where])
        if OF_DIALOGUES in by_name:  # shown are the actor's own tokens
            length = sum(by_name[OF_DIALOGUES][where][:length])
        known[*where, int(length)] = (state.v_mc, state.v_se)
    values = token_values(critic, prompts, tokens)
    responses, values = own_tokens(responses, values)
    return shown_responses(responses, values, tokenizer, gamma, lam, known)


def state_values(critic: Any, states: pd.DataFrame) -> Any:
    """V(s) of each state: the value at the last token of prompt and prefix, ``(states,)``."""
    prefixes = list(states["prefix_tokens"])
    # ``token_values`` gives the states before each token of a response: here before one token.
    found = token_values(critic, prefixes, [[0]] * len(prefixes))
    return pd.Series([values[0] for values in found]).to_numpy(float)
