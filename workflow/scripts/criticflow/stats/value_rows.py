"""Rows of ``results/critics.json``: one per critic and actor, references included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import value_references, value_truth

Floats = NDArray[np.float64]
Row = dict[str, Any]

CRITIC = ("critic", "kind", "critic_seed", "critic_step")
"""What names a critic; the actor's part of an identity is ``actor, actor_seed, actor_step, task,
gamma``."""


def critic_rows(
    critic: Mapping[str, Any],
    actor: Mapping[str, Any],
    states: pd.DataFrame,
    values: Floats,
    continuations: pd.DataFrame | None = None,
) -> list[Row]:
    """The row of one critic, and that of its own values permuted between prompts.

    Args:
        critic: ``critic, kind (run | pretrained), critic_seed, critic_step``.
        actor: ``actor, actor_seed, actor_step, task, gamma``.
        states, values, continuations: see ``value_truth.figures``.
    """
    rows = [
        {
            **_named(critic, actor),
            **value_truth.figures(states, values, continuations, float(actor["gamma"])),
        }
    ]
    permuted = value_references.shuffled(states, values)
    if permuted is not None:
        rows.append({**_named({**critic, "kind": "shuffled"}, actor), **permuted})
    return rows


def reference_rows(
    actor: Mapping[str, Any],
    states: pd.DataFrame,
    continuations: pd.DataFrame | None = None,
    ks: tuple[int, ...] = value_references.MONTE_CARLO,
) -> list[Row]:
    """The rows that need no critic: one actor's constant, position, prompt mean, Monte Carlo."""
    gamma = float(actor["gamma"])

    def row(name: str, kind: str, found: dict[str, Any]) -> Row:
        return {**_named({"critic": name, "kind": kind}, actor), **found}

    by_position = value_references.position_values(states)
    rows = [
        row("best constant", "constant", value_references.constant(states)),
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
        rows.append(row(f"Monte Carlo, k = {k}", "monte_carlo", found))
    return rows


def _named(critic: Mapping[str, Any], actor: Mapping[str, Any]) -> Row:
    return {**{key: critic.get(key) for key in CRITIC}, **actor}
