"""Rows of ``results/critics.json``: one per critic and actor, references included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import advantage_audit, value_ranking, value_references, value_truth

Floats = NDArray[np.float64]
Row = dict[str, Any]

CRITIC = ("critic", "kind", "critic_seed", "critic_step")
"""What names a critic; the actor's part of an identity is ``actor, actor_seed, actor_step, task,
gamma``."""


_UNMEASURED = {"ranking": None, "advantages": None}


def critic_rows(
    critic: Mapping[str, Any],
    actor: Mapping[str, Any],
    states: pd.DataFrame,
    values: Floats,
    continuations: pd.DataFrame | None = None,
    pieces: tuple[value_ranking.Pieces, Floats] | None = None,
    tokens: tuple[advantage_audit.Audited, Floats] | None = None,
) -> list[Row]:
    """The row of one critic, and that of its own values permuted between prompts.

    ``ranking`` and ``advantages`` are None where they were not measured, or nothing could be said.

    Args:
        critic: ``critic, kind (run | pretrained), critic_seed, critic_step``.
        actor: ``actor, actor_seed, actor_step, task, gamma``.
        states, values, continuations: see ``value_truth.figures``.
        pieces: next pieces of the states, and the critic's values behind them.
        tokens: of audited responses, and the critic's values before each.
    """
    gamma = float(actor["gamma"])
    figures = value_truth.figures(states, values, continuations, gamma)
    ranked = None
    if pieces is not None:
        ranked = value_ranking.of_values(*pieces, gamma, value_references.MONTE_CARLO)
    audited = tokens and advantage_audit.of_values(*tokens, gamma)
    rows = [{**_named(critic, actor), **figures, "ranking": ranked, "advantages": audited}]
    permuted = value_references.shuffled(states, values)
    if permuted is not None:
        rows.append({**_named({**critic, "kind": "shuffled"}, actor), **permuted, **_UNMEASURED})
    return rows


def reference_rows(
    actor: Mapping[str, Any],
    states: pd.DataFrame,
    continuations: pd.DataFrame | None = None,
    ks: tuple[int, ...] = value_references.MONTE_CARLO,
    pieces: value_ranking.Pieces | None = None,
    tokens: advantage_audit.Audited | None = None,
) -> list[Row]:
    """The rows that need no critic: one actor's constant, position, prompt mean, Monte Carlo.

    Of next pieces the constant chooses by chance, Monte Carlo by its continuations from behind
    them; the other two know nothing that could tell them apart. The constant is the floor of
    advantages too.
    """
    gamma = float(actor["gamma"])

    def row(name: str, kind: str, found: dict[str, Any], **more: Any) -> Row:
        return {**_named({"critic": name, "kind": kind}, actor), **found, **_UNMEASURED, **more}

    by_position = value_references.position_values(states)
    chance = pieces and value_ranking.of_values(pieces, np.zeros(len(pieces[0])), gamma, ks)
    floor = tokens and advantage_audit.of_values(tokens, None, gamma)
    constant = value_references.constant(states)
    rows = [
        row("best constant", "constant", constant, ranking=chance, advantages=floor),
        row(
            "position only",
            "position",
            value_truth.figures(states, by_position, continuations, gamma),
        ),
    ]
    others = (
        None
        if continuations is None
        else value_references.prompt_mean(states, continuations, gamma)
    )
    if others is not None:
        rows.append(row("prompt's other responses", "prompt_mean", value_truth.figures(*others)))
    for k in ks:
        found = value_references.monte_carlo(states, k, continuations, gamma)
        ranked = pieces and value_ranking.of_monte_carlo(pieces, k, gamma, ks)
        rows.append(row(f"Monte Carlo, k = {k}", "monte_carlo", found, ranking=ranked))
    return rows


def _named(critic: Mapping[str, Any], actor: Mapping[str, Any]) -> Row:
    return {**{key: critic.get(key) for key in CRITIC}, **actor}
