"""What a critic is compared with in every table: predictors that need no critic, and Monte Carlo.

- ``constant``: the best constant. Its mse is Var(V^pi), so its share is 0 and its worth the floor;
  at a position, the best constant of that position.
- ``position``: the mean of v_mc at the position, over the other problems.
- ``prompt_mean``: the mean score of other responses to the same prompt, the baseline of RLOO and
  GRPO: half of the continuations from the prompt. The prompts' own truth is the other half.
- ``shuffled``: the critic's values exchanged between prompts at equal position, the mean over all
  exchanges: what is left of the critic is the spread of its values at each position.
- ``monte_carlo`` with k continuations a state: error mean(n u) / k in closed form; its rank
  correlation is that of k continuations with the mean of the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import truth_table, value_truth
from criticflow.stats.intervals import (
    UNDEFINED,
    Figure,
    Joint,
    cluster_sums,
    exact,
    jackknife,
)

Floats = NDArray[np.float64]

MONTE_CARLO = (1, 4, 16)
_FEWEST = 4  # problems at a position: two are left out at a time, and a pair must remain


def constant(states: pd.DataFrame) -> dict[str, Any]:
    """Figures of the best constant, overall and by position."""

    def some(rows: NDArray[np.bool_]) -> dict[str, Any]:
        here = states[rows]
        found = _unbiased(_base(here), value_truth.VARIANCE)
        return {**value_truth.ratios(found), **_no_ranks(), **value_truth.sizes(here)}

    return value_truth.with_positions(states, some)


def monte_carlo(
    states: pd.DataFrame, k: int, continuations: pd.DataFrame | None = None, gamma: float = 1.0
) -> dict[str, Any]:
    """Figures of the mean of k fresh continuations from each state; its worth is k.

    Spearman's rho is undefined without continuations, or where no two are left beside the k.
    """
    enough = continuations is not None and int(states["n"].min()) > k + 1
    ranks = value_truth.half_means(states, continuations, gamma, first=k) if enough else None

    def some(rows: NDArray[np.bool_]) -> dict[str, Any]:
        here = states[rows]
        found = value_truth.ratios(_unbiased(_base(here), value_truth.NOISE / k))
        known = found["worth_in_rollouts"]["value"] is not None
        rho = (
            dict(UNDEFINED)
            if ranks is None
            else value_truth.correlation(ranks[0][rows], ranks[1][rows], here)
        )
        return {
            **found,
            "worth_in_rollouts": exact(k) if known else dict(UNDEFINED),
            **_no_ranks(),
            "spearman": rho,
            **value_truth.sizes(here),
        }

    return value_truth.with_positions(states, some)


def position_values(states: pd.DataFrame) -> Floats:
    """v_mc at each state's position, averaged over the states of other problems, ``(states,)``.

    Where no other problem has a state at the position: the average over all other problems.
    """
    problem = truth_table.clusters(states)
    truth = states["v_mc"].to_numpy(np.float64)
    values = _mean_of_others(truth, problem)
    for _, rows in truth_table.positions(states):
        here = _mean_of_others(truth[rows], problem[rows])
        values[rows] = np.where(np.isnan(here), values[rows], here)
    return values


def prompt_mean(
    states: pd.DataFrame, continuations: pd.DataFrame, gamma: float = 1.0
) -> tuple[pd.DataFrame, Floats] | None:
    """States and the mean of other responses to their prompts as values, or None.

    The values come from the first half of the continuations that start at the prompt (position 0);
    in the states that are returned, the truth of the prompts is the second half, so that no
    continuation stands on both sides. Problems without a state at the prompt are left out; None
    where fewer than two remain, or a prompt has fewer than four continuations.
    """
    states = states.reset_index(drop=True)
    prompts = states[states["position"] == 0].drop_duplicates("prompt_index")
    first, second = truth_table.parts(
        continuations[continuations["state"].isin(states.loc[states["position"] == 0, "state"])]
    )
    if len(prompts) < 2 or (second.groupby("state").size() < 2).any():
        return None
    mean = truth_table.estimates(first, gamma)["v_mc"].reindex(prompts["state"]).to_numpy()
    of_prompt = pd.Series(mean, index=prompts["prompt_index"])
    kept = states[states["prompt_index"].isin(of_prompt.index)]
    at_prompt = kept["position"] == 0
    kept = pd.concat(
        [truth_table.with_truth(kept[at_prompt], second, gamma), kept[~at_prompt]]
    ).sort_index()
    return kept, of_prompt.reindex(kept["prompt_index"]).to_numpy(np.float64)


def shuffled(states: pd.DataFrame, values: Floats) -> dict[str, Any] | None:
    """Figures of a critic whose values are permuted between prompts at equal position.

    The mean over all pairs of prompts, in closed form: no permutation is drawn. Exact values score
    a share of -1 at each position. Positions with fewer than four problems are left out; None where
    none remains.
    """
    values = value_truth.checked(states, values)
    problem = states["prompt_index"].to_numpy()
    keep = np.zeros(len(states), dtype=bool)
    for _, rows in truth_table.positions(states):
        keep |= rows & (len(np.unique(problem[rows])) >= _FEWEST)
    if not keep.any():
        return None
    states, values = states[keep], values[keep]

    def some(rows: NDArray[np.bool_]) -> dict[str, Any]:
        here = states[rows]
        found = value_truth.ratios(_shuffled_base(here, values[rows]))
        return {**found, **_no_ranks(), **value_truth.sizes(here)}

    return value_truth.with_positions(states, some)


def _shuffled_base(states: pd.DataFrame, values: Floats) -> Joint:
    """As ``value_truth.base``, with (V_j - v_i)^2 averaged over pairs of different problems."""
    problem = truth_table.clusters(states)
    truth = states["v_mc"].to_numpy(np.float64)
    columns = cluster_sums(problem, value_truth.base_columns(states, values))
    blocks = [columns]
    for _, rows in truth_table.positions(states):
        inside = rows.astype(np.float64)
        moments = [inside, values, values**2, truth, truth**2]
        sums = cluster_sums(problem, [inside * column for column in moments])
        count, first, square, other, other_square = sums.T
        same = count * (square + other_square) - 2 * first * other
        blocks.append(np.column_stack([sums, count**2, same]))
    width = columns.shape[1]

    def figures(totals: Floats) -> Floats:
        plain = value_truth.of_totals(totals[..., :width])
        states_in_all, error = 0.0, 0.0
        for start in range(width, totals.shape[-1], 7):
            block = np.moveaxis(totals[..., start : start + 7], -1, 0)
            count, first, square, other, other_square, same_pairs, same = block
            pairs = count * (square + other_square) - 2 * first * other - same
            error = error + count * pairs / (count**2 - same_pairs)
            states_in_all = states_in_all + count
        noise = totals[..., 3] / totals[..., 0]
        mse = error / states_in_all - noise
        bias = plain[..., 0]
        return np.stack([bias, mse, mse - bias**2, plain[..., 3], plain[..., 4]], axis=-1)

    return jackknife(np.concatenate(blocks, axis=1), figures)


def _base(states: pd.DataFrame) -> Joint:
    return value_truth.base(states, value_truth.checked(states, states["v_mc"]))


def _unbiased(found: Joint, mse: Floats) -> Joint:
    """The base of a predictor without bias whose mse is this combination of the figures."""
    nothing = np.zeros(5)
    return found.transformed([nothing, mse, mse, value_truth.VARIANCE, value_truth.NOISE])


def _no_ranks() -> dict[str, Figure]:
    return {"spearman": dict(UNDEFINED), "spearman_halves": dict(UNDEFINED)}


def _mean_of_others(truth: Floats, problem: NDArray[np.integer]) -> Floats:
    """Mean over the rows of other problems; nan where there are none."""
    size = int(problem.max()) + 1
    sums, counts = np.bincount(problem, truth, size), np.bincount(problem, minlength=size)
    others = len(truth) - counts[problem]
    return np.where(others > 0, (truth.sum() - sums[problem]) / np.maximum(others, 1), np.nan)
