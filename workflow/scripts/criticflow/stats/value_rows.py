"""Rows of ``results/critics.json``: one per critic and actor, references included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import (
    advantage_audit,
    advantage_references,
    truth_table,
    value_ranking,
    value_references,
    value_truth,
)

Floats = NDArray[np.float64]
Row = dict[str, Any]

CRITIC = ("critic", "kind", "critic_seed", "critic_step")
"""What names a critic; the actor's part of an identity is ``actor, actor_seed, actor_step, task,
gamma``."""


_UNMEASURED = {"ranking": None, "advantages": None}


@dataclass(frozen=True)
class Further:
    """What a truth has beside its states; None: it was not measured.

    Attributes:
        pieces: next pieces of the states.
        tokens: of audited responses.
        products: inner products of the gradients of log pi of these tokens.
    """

    pieces: value_ranking.Pieces | None = None
    tokens: advantage_audit.Audited | None = None
    products: Floats | None = None


def critic_rows(
    critic: Mapping[str, Any],
    actor: Mapping[str, Any],
    states: pd.DataFrame,
    values: Floats,
    continuations: pd.DataFrame | None = None,
    pieces: tuple[value_ranking.Pieces, Floats] | None = None,
    tokens: tuple[advantage_audit.Audited, Floats] | None = None,
    products: Floats | None = None,
) -> list[Row]:
    """The row of one critic, and that of its own values permuted between prompts.

    ``ranking`` and ``advantages`` are None where they were not measured, or nothing could be said;
    where a row has a ranking, each of its positions has one or None.

    Args:
        critic: ``critic, kind (run | pretrained), critic_seed, critic_step``.
        actor: ``actor, actor_seed, actor_step, task, gamma``.
        states, values, continuations: see ``value_truth.figures``.
        pieces: next pieces of the states, and the critic's values behind them.
        tokens: of audited responses, and the critic's values before each.
        products: inner products of these tokens' gradients of log pi.
    """
    gamma = float(actor["gamma"])
    row = {
        **_named(critic, actor),
        **value_truth.figures(states, values, continuations, gamma),
        **_UNMEASURED,
    }
    if pieces is not None:
        ks = value_references.MONTE_CARLO
        _rank(row, states, value_ranking.of_values(*pieces, gamma, ks))
    if tokens is not None:
        row["advantages"] = advantage_audit.of_values(*tokens, gamma, products)
    rows = [row]
    permuted = value_references.shuffled(states, values)
    if permuted is not None:
        other = {**_named({**critic, "kind": "shuffled"}, actor), **permuted, **_UNMEASURED}
        if tokens is not None:
            audited, before = tokens
            exchanged = advantage_references.shuffled(audited[0], before)
            other["advantages"] = advantage_audit.of_values(audited, exchanged, gamma, products)
        rows.append(other)
    return rows


def reference_rows(
    actor: Mapping[str, Any],
    states: pd.DataFrame,
    continuations: pd.DataFrame | None = None,
    ks: tuple[int, ...] = value_references.MONTE_CARLO,
    further: Further | None = None,
) -> list[Row]:
    """The rows that need no critic: one actor's constant, position, prompt mean, Monte Carlo.

    Of next pieces the constant chooses by chance, Monte Carlo by its continuations from behind
    them; the other two know nothing that could tell them apart. Advantages have all of them
    (:mod:`advantage_references`), except where too few continuations would be left to judge.
    """
    gamma = float(actor["gamma"])
    further = further or Further()
    pieces, tokens = further.pieces, further.tokens

    def row(name: str, kind: str, found: dict[str, Any]) -> Row:
        return {**_named({"critic": name, "kind": kind}, actor), **found, **_UNMEASURED}

    def audit(row: Row, found: tuple[advantage_audit.Audited, Floats] | None) -> None:
        if found is not None:
            row["advantages"] = advantage_audit.of_values(*found, gamma, further.products)

    by_position = value_references.position_values(states)
    constant = row("best constant", "constant", value_references.constant(states))
    position = row(
        "position only", "position", value_truth.figures(states, by_position, continuations, gamma)
    )
    rows = [constant, position]
    if pieces is not None:
        nothing = np.zeros(len(pieces[0]))
        _rank(constant, states, value_ranking.of_values(pieces, nothing, gamma, ks))
    if tokens is not None:
        audit(constant, (tokens, advantage_references.constant(tokens, gamma)))
        audit(position, (tokens, advantage_references.position(tokens, gamma)))
    others = (
        None
        if continuations is None
        else value_references.prompt_mean(states, continuations, gamma)
    )
    if others is not None:
        rows.append(row("prompt's other responses", "prompt_mean", value_truth.figures(*others)))
        audit(rows[-1], tokens and advantage_references.prompt_mean(tokens, gamma))
    for k in ks:
        found = value_references.monte_carlo(states, k, continuations, gamma)
        rows.append(row(f"Monte Carlo, k = {k}", "monte_carlo", found))
        if pieces is not None:
            choices = value_ranking.of_monte_carlo(pieces, k, gamma, ks)
            _rank(rows[-1], states, choices)
        audit(rows[-1], tokens and advantage_references.monte_carlo(tokens, k, gamma))
    return rows


def _rank(row: Row, states: pd.DataFrame, choices: value_ranking.Choices | None) -> None:
    """Give a row, and each of its positions, the ranking of these choices."""
    if choices is None:
        return
    row["ranking"] = value_ranking.ranking(*choices)
    at = {place: states.loc[rows, "state"] for place, rows in truth_table.positions(states)}
    for here in row["by_position"]:
        here["ranking"] = value_ranking.from_states(choices, at[here["position"]].to_numpy())


def _named(critic: Mapping[str, Any], actor: Mapping[str, Any]) -> Row:
    return {**{key: critic.get(key) for key in CRITIC}, **actor}
