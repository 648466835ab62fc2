"""Advantages from a critic against the truth, on the same trajectories, before whitening.

With the Monte-Carlo truth at every token of a trajectory, the advantage of token t is
``gamma V^pi(s_{t+1}) - V^pi(s_t)`` (``R - V^pi(s_t)`` at the last). Its estimate from v_mc has
noise of known size, which is subtracted from every figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import advantage_references, gradient_audit, truth_table
from criticflow.stats.advantage_references import Audited
from criticflow.stats.generalized_advantages import advantages, last_tokens
from criticflow.stats.intervals import UNDEFINED, Figure, cluster_sums, jackknife, single

Floats = NDArray[np.float64]

LAMBDAS = (1.0, 0.0)
_ERROR, _COMMON, _OWN, _TRUE = np.eye(4)


def audit(tokens: pd.DataFrame, values: Floats, lam: float, gamma: float = 1.0) -> dict[str, Any]:
    """How well a critic's advantages tell good tokens from bad ones.

    - ``mse``: mean squared error against the true advantages, their noise subtracted
    - ``correlation``: Pearson's, ``Cov(A, A_mc) / sqrt(Var(A) (Var(A_mc) - noise))``: the truth's
      noise is independent of A, so only Var(A_mc) contains it
    - ``variance`` of the critic's advantages and ``true_variance`` of the true ones
    - ``sign_observed``: share of tokens where A and A_mc have one sign (0 counts half);
      ``sign_reliability``: the same of A_mc from two disjoint halves of the continuations;
      ``sign_agreement``: with the true sign, by Spearman's (1904) correction for attenuation,
      ``(1 + (2 a - 1) / sqrt(2 r - 1)) / 2`` with a against one half and r between the halves.
      It is exact where noise changes signs equally often at all tokens; elsewhere it is too near
      to 1/2 for a critic whose errors are unrelated to the noise. Needs the columns ``v_a`` and
      ``v_b``; undefined where the halves agree no more than by chance.

    Args:
        tokens: one row a token: ``prompt_index, trajectory, score, v_mc, v_se``, and v_a, v_b.
        values: the critic's V(s_t), shape ``(tokens,)``.
    """
    own = advantages(tokens, values, lam, gamma)
    true = advantages(tokens, tokens["v_mc"], 0.0, gamma)
    square = tokens["v_se"].to_numpy(np.float64) ** 2
    noise = square + gamma**2 * np.where(last_tokens(tokens), 0.0, np.append(square[1:], 0.0))
    problem = truth_table.clusters(tokens)
    columns = [np.ones(len(own)), own, true, own**2, true**2, own * true, noise]
    found = jackknife(cluster_sums(problem, columns), _moments)
    return {
        "lambda": lam,
        "mse": found.linear(_ERROR),
        "correlation": _correlation(cluster_sums(problem, columns)),
        "variance": found.linear(_OWN),
        "true_variance": found.linear(_TRUE),
        **_signs(tokens, own, true, problem, gamma),
        "tokens": len(own),
        "problems": int(problem.max()) + 1,
    }


def of_values(
    found: Audited, values: Floats | None, gamma: float, products: Floats | None = None
) -> list[dict[str, Any]] | None:
    """``audit`` at lambda 1 and 0; None where there are fewer than two problems.

    Args:
        found: audited tokens and the continuations that say what is true before each.
        values: V before each token, ``(tokens,)``; None: the constant floor, the mean of v_mc.
        products: inner products of the gradients of log pi of the tokens, ``(tokens, tokens)``:
            with them each audit has ``gradient`` (:func:`gradient_audit.audit`).
    """
    tokens, continuations = found
    if tokens["prompt_index"].nunique() < 2:
        return None
    if values is None:
        values = advantage_references.constant(found, gamma)
    tokens = truth_table.with_truth(tokens, continuations, gamma)
    for name, part in zip(("v_a", "v_b"), truth_table.parts(continuations), strict=True):
        means = truth_table.estimates(part, gamma)["v_mc"]
        tokens[name] = means.reindex(tokens["state"]).to_numpy()
    rows = [audit(tokens, values, lam, gamma) for lam in LAMBDAS]
    if products is not None:
        for row in rows:
            its = gradient_audit.audit(tokens, products, values, row["lambda"], gamma)
            row["gradient"] = its
    return rows


def audit_rows(
    tokens: pd.DataFrame, critics: dict[str, Floats], gamma: float = 1.0
) -> list[dict[str, Any]]:
    """``audit`` of each critic at lambda 1 and 0, with the mean of v_mc as the constant floor."""
    floor = {"constant": np.full(len(tokens), float(tokens["v_mc"].mean()))}
    return [
        {"critic": name, **audit(tokens, values, lam, gamma)}
        for name, values in {**critics, **floor}.items()
        for lam in LAMBDAS
    ]


def _moments(totals: Floats) -> Floats:
    own, true, own2, true2, product, noise = np.moveaxis(totals[..., 1:] / totals[..., :1], -1, 0)
    error = own2 + true2 - 2 * product - noise
    return np.stack([error, product - own * true, own2 - own**2, true2 - true**2 - noise], axis=-1)


def _correlation(sums: Floats) -> Figure:
    def figures(totals: Floats) -> Floats:
        _, common, own, true = np.moveaxis(_moments(totals), -1, 0)
        spread = own * true
        return (common / np.sqrt(np.where(spread > 1e-12, spread, np.nan)))[..., None]

    return single(jackknife(sums, figures))


def _signs(
    tokens: pd.DataFrame,
    own: Floats,
    true: Floats,
    problem: NDArray[np.integer],
    gamma: float,
) -> dict[str, Figure]:
    sign = _sign(own)
    columns = [np.ones(len(own)), sign * _sign(true)]
    names = {"sign_observed": 0}
    if {"v_a", "v_b"} <= set(tokens.columns):
        first, second = (_sign(advantages(tokens, tokens[v], 0.0, gamma)) for v in ("v_a", "v_b"))
        columns += [first * second, sign * (first + second) / 2]
        names["sign_reliability"] = 1
    sums = cluster_sums(problem, columns)

    def agreements(totals: Floats) -> Floats:
        return (1 + totals[..., 1:] / totals[..., :1]) / 2

    def corrected(totals: Floats) -> Floats:
        _, between, against = np.moveaxis(totals[..., 1:] / totals[..., :1], -1, 0)
        root = np.sqrt(np.where(between > 1e-12, between, np.nan))
        return ((1 + against / root) / 2)[..., None]

    found = jackknife(sums, agreements)
    size = len(columns) - 1
    figures = {name: found.linear(np.eye(size)[number]) for name, number in names.items()}
    undefined = {"sign_reliability": dict(UNDEFINED), "sign_agreement": dict(UNDEFINED)}
    if size == 1:
        return {**figures, **undefined}
    return {**figures, "sign_agreement": single(jackknife(sums, corrected))}


def _sign(numbers: Floats) -> Floats:
    return np.sign(np.where(np.abs(numbers) > 1e-9, numbers, 0.0))
