"""The policy gradient with a critic's advantages against that with the true ones.

PPO's first update of a batch follows, token-mean as in training and before whitening,

    g[A] = sum_it A_it grad log pi(a_it | s_it) / sum_i T_i

over responses i and tokens t. It is linear in the advantages, so with the matrix K of the inner
products of all tokens' gradients of log pi every critic is judged without a model:
``<g_i[A], g_j[B]> = sum_tu A_it K_it,ju B_ju`` of two responses' parts, the division left out.

Two means of these, both without bias, give the inner product of two gradients on one batch of b
responses to different problems (K_b: the batch's sum over b)::

    same(A, B)  = mean over responses i of <g_i[A], g_i[B]>
    other(A, B) = mean over pairs i, j of different problems of <g_i[A], g_j[B]>
    E<K_b[A], K_b[B]> = same(A, B) / b + (1 - 1 / b) other(A, B)

``other(A, B)`` is the inner product of the expected gradients. The true advantages A* are known
with noise. It is independent between problems, so it adds nothing to ``other``, nor to ``same(A,
A*)`` where A was made without these continuations; ``same(A*, A*)`` is taken between two disjoint
halves of the continuations, whose noises are independent.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import truth_table
from criticflow.stats.generalized_advantages import advantages
from criticflow.stats.intervals import Joint, cluster_sums, jackknife, single

Floats = NDArray[np.float64]


def audit(
    tokens: pd.DataFrame, products: Floats, values: Floats, lam: float, gamma: float = 1.0
) -> dict[str, Any]:
    """How near the policy gradient with a critic comes to that with the true advantages.

    - ``cosine``: of the two gradients on one batch of as many responses as were audited,
      ``E<g[A], g[A*]> / sqrt(E|g[A]|^2 E|g[A*]|^2)``: how much of the step is the true one
    - ``cosine_expected``: of the two expected gradients, as if the batch were endless: what is left
      of the error when variance is gone. At lambda 1 it is 1 for every critic, since a baseline
      adds no bias
    - ``variance``: trace of the covariance of the gradient over batches, of one response;
      a batch of b responses has 1/b of it. Lengths are taken as their mean
    - ``true_variance``: the same with the true advantages
    - ``variance_ratio``: the first over the second
    - ``squared_norm`` of the expected gradient with the true advantages

    Undefined is a cosine where the squared norm of a gradient is not above 0.

    Args:
        tokens: one row a token: ``prompt_index, trajectory, score, v_mc, v_a, v_b``, the last two
            from disjoint halves of the continuations.
        products: K, inner products of the gradients of log pi of these tokens, shape
            ``(tokens, tokens)``.
        values: the critic's V(s_t), shape ``(tokens,)``.

    Raises:
        ValueError: another number of products than tokens.
    """
    if products.shape != (len(tokens), len(tokens)):
        raise ValueError(f"{len(tokens)} tokens, but products of shape {products.shape}")
    own = advantages(tokens, values, lam, gamma)
    true, first, second = (
        advantages(tokens, tokens[name], 0.0, gamma) for name in ("v_mc", "v_a", "v_b")
    )
    starts = np.flatnonzero(~tokens["trajectory"].duplicated().to_numpy())
    problem = truth_table.clusters(tokens.iloc[starts])
    lengths = np.diff(np.append(starts, len(tokens))).astype(np.float64)
    batch = len(starts)

    counts, tokens_of = cluster_sums(problem, [np.ones(batch), lengths]).T
    of = functools.partial(_inner, starts=starts, problem=problem)
    pairs = [
        of(own, products, own),
        of(own, products, true),
        _Inner(of(first, products, second).same, of(true, products, true).whole),
    ]

    def means(kept: Floats) -> tuple[Floats, Floats]:
        """``same`` and ``other`` of own with own, own with true, true with true, each ``(..., 3)``,
        of the problems that are kept, ``(..., problems)`` of 0 and 1."""
        size = kept @ counts
        others = size**2 - kept @ counts**2
        others = np.where(others > 0, others, np.nan)
        same = [kept @ found.same / size for found in pairs]
        other = [
            (np.sum((kept @ found.whole) * kept, -1) - kept @ np.diag(found.whole)) / others
            for found in pairs
        ]
        return np.stack(same, axis=-1), np.stack(other, axis=-1)

    def figures(kept: Floats) -> Floats:
        same, other = means(kept)
        square = (kept @ tokens_of / (kept @ counts))[..., None] ** 2
        on_batch = same / batch + (1 - 1 / batch) * other
        spread = (same - other) / square
        columns = [_cosine(on_batch), _cosine(other), spread[..., [0, 2]], other[..., [2]] / square]
        return np.concatenate(columns, axis=-1)

    found = jackknife(np.eye(len(counts)), figures)
    spread = _part(found, slice(2, 5))
    return {
        "cosine": single(_part(found, slice(0, 1))),
        "cosine_expected": single(_part(found, slice(1, 2))),
        "variance": spread.linear([1, 0, 0]),
        "true_variance": spread.linear([0, 1, 0]),
        "variance_ratio": spread.ratio([1, 0, 0], [0, 1, 0]),
        "squared_norm": spread.linear([0, 0, 1]),
        "responses": batch,
    }


class _Inner(NamedTuple):
    """Inner products of responses' gradients, with two kinds of advantages.

    Attributes:
        same: of each response with itself, summed over a problem's, ``(problems,)``.
        whole: of all responses of one problem with all of another, ``(problems, problems)``.
    """

    same: Floats
    whole: Floats


def _inner(
    one: Floats,
    products: Floats,
    other: Floats,
    starts: NDArray[np.integer],
    problem: NDArray[np.integer],
) -> _Inner:
    """Of advantages ``one`` with ``other``, ``(tokens,)``; symmetric, since either may be first.

    Args:
        starts: first token of each response; ``problem`` of each response.
    """
    weighted = one[:, None] * products * other
    between = np.add.reduceat(np.add.reduceat(weighted, starts, axis=0), starts, axis=1)
    between = (between + between.T) / 2
    member = np.eye(int(problem.max()) + 1)[problem]
    return _Inner(np.bincount(problem, np.diag(between)), member.T @ between @ member)


def _part(found: Joint, which: slice) -> Joint:
    """Some of the figures, of which others may be undefined."""
    return Joint(found.mean[which], found.covariance[which, which], found.df)


def _cosine(products: Floats) -> Floats:
    """From inner products (own with own, own with true, true with true), ``(..., 1)``."""
    own, both, true = np.moveaxis(products, -1, 0)
    known = (own > 0) & (true > 0)
    return (both / np.sqrt(np.where(known, own * true, np.nan)))[..., None]
