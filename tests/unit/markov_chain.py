"""A Markov chain whose values are known exactly, as states with sampled continuations.

A problem is a start on a line of nine cells; each of ten steps goes up or down by one with equal
chance (another actor's: with another), both ends hold. The score is 1 in the upper cells, 0.1 in
two below, 0 else: V^pi follows from powers of the transition matrix, and a continuation from a
state is a draw of its final score.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

CELLS, STEPS = 9, 10
TIMES = (0, 2, 4, 6, 8, 9)
SCORES = np.array([0.0, 0.1, 1.0])


class Actor(NamedTuple):
    """``up``: chance of a step up; ``chances[t][cell]``: of each score, from that cell at time t;
    ``exact``: V^pi, ``(times, cells)``."""

    up: float
    step: np.ndarray
    chances: list[np.ndarray]
    exact: np.ndarray


def actor(up: float) -> Actor:
    step = np.zeros((CELLS, CELLS))
    for cell in range(CELLS):
        if cell in (0, CELLS - 1):
            step[cell, cell] = 1
        else:
            step[cell, cell - 1], step[cell, cell + 1] = 1 - up, up
    kind = np.digitize(np.arange(CELLS), [2, 4])
    chances = [np.eye(3)[kind]]
    for _ in range(STEPS):
        chances.insert(0, step @ chances[0])
    return Actor(up, step, chances, np.stack([chance @ SCORES for chance in chances]))


EVEN = actor(0.5)
_, STEP, CHANCES, EXACT = EVEN


def visits(whose: Actor = EVEN) -> np.ndarray:
    """Share of all states that an actor's are at each time and cell, ``(times, cells)``."""
    at = np.zeros(CELLS)
    at[1:-1] = 1 / (CELLS - 2)
    found = np.zeros((STEPS, CELLS))
    for time in range(STEPS):
        if time in TIMES:
            found[time] = at / len(TIMES)
        at = at @ whose.step
    return found


def truth(critic=None) -> dict[str, float]:
    """Exact figures of ``critic`` (a function of (time, cell)) over the states of all problems."""
    rows = []
    shares = visits()
    for now in TIMES:
        for cell in range(CELLS):
            value = EXACT[now, cell]
            single = CHANCES[now][cell] @ SCORES**2 - value**2
            rows.append((shares[now, cell], value, single, critic(now, cell) if critic else 0))
    weight, value, single, guess = np.array(rows).T
    mean = weight @ value
    return {
        "bias": weight @ (guess - value),
        "mse": weight @ (guess - value) ** 2,
        "variance": weight @ (value - mean) ** 2,
        "return_variance": weight @ single,
    }


def table(
    problems: int,
    continuations: int,
    seed: int,
    critic=None,
    times=TIMES,
    came: Actor = EVEN,
    goes_on: Actor = EVEN,
):
    """``(states, scores, values)``: the table of states, each one's scores, exact or critic's V.

    ``scores`` has shape ``(states, continuations)``. States are of the actor ``came``, and with one
    seed the same for any that ``goes_on``.
    """
    odds = None if came is EVEN else [1 - came.up, came.up]
    draw = np.random.default_rng(seed)
    cell = draw.integers(1, CELLS - 1, problems)
    rows, cells, now = [], [], []
    for time in range(STEPS):
        if time in times:
            rows.append(np.arange(problems))
            cells.append(cell)
            now.append(np.full(problems, time))
        inside = (cell > 0) & (cell < CELLS - 1)
        cell = cell + inside * draw.choice([-1, 1], problems, p=odds)
    prompt, cells, now = (np.concatenate(part) for part in (rows, cells, now))
    chance = np.stack(goes_on.chances)[now, cells]
    kinds = (draw.random((len(prompt), continuations, 1)) > np.cumsum(chance, 1)[:, None, :2]).sum(
        -1
    )
    scores = SCORES[kinds]
    states = pd.DataFrame(
        {
            "state": np.arange(len(prompt)),
            "prompt_index": prompt,
            "sample_index": 0,
            "position": now / STEPS,
            "n": continuations,
            "v_mc": scores.mean(1),
            "v_se": scores.std(1, ddof=1) / np.sqrt(continuations),
        }
    )
    function = critic or (lambda time, place: EXACT[time, place])
    return states, scores, np.array([function(t, c) for t, c in zip(now, cells, strict=True)])


def continuations(states: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """The scores as ``continuations.parquet`` has them."""
    return pd.DataFrame(
        {
            "state": np.repeat(states["state"].to_numpy(), scores.shape[1]),
            "score": scores.ravel(),
            "correct": scores.ravel() == 1,
            "length": 5,
        }
    )
