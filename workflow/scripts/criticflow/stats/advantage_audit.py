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

from criticflow.stats import truth_table
from criticflow.stats.intervals import UNDEFINED, Figure, Joint, cluster_sums, jackknife

Floats = NDArray[np.float64]

Audited = tuple[pd.DataFrame, pd.DataFrame]
"""States before each token of some trajectories and the continuations from them:
``tokens.parquet``, ``token_continuations.parquet``."""

LAMBDAS = (1.0, 0.0)
_ERROR, _COMMON, _OWN, _TRUE = np.eye(4)


def advantages(tokens: pd.DataFrame, values: Floats, lam: float, gamma: float = 1.0) -> Floats:
    """GAE of each token (Schulman et al. 2016, equation 16), shape ``(tokens,)``.

    The score is the only reward, paid with the last token; ``lam`` 1 gives ``G - V(s_t)``, 0 gives
    ``gamma V(s_{t+1}) - V(s_t)``.

    Args:
        tokens: one row a token, in order within a ``trajectory`` (whose rows stand together), with
            the trajectory's ``score``.
        values: V(s_t) before each token, shape ``(tokens,)``.
    """
    values = np.asarray(values, dtype=np.float64)
    last = _last(tokens)
    following = np.where(last, 0.0, np.append(values[1:], 0.0))
    reward = np.where(last, tokens["score"].to_numpy(np.float64), 0.0)
    found = reward + gamma * following - values
    if lam:
        for row in range(len(found) - 2, -1, -1):
            if not last[row]:
                found[row] += gamma * lam * found[row + 1]
    return found


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
    noise = square + gamma**2 * np.where(_last(tokens), 0.0, np.append(square[1:], 0.0))
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


def of_values(found: Audited, values: Floats | None, gamma: float) -> list[dict[str, Any]] | None:
    """``audit`` at lambda 1 and 0; None where there are fewer than two problems.

    Args:
        values: V before each token, ``(tokens,)``; None: the constant floor, the mean of v_mc.
    """
    tokens, continuations = found
    if tokens["prompt_index"].nunique() < 2:
        return None
    tokens = truth_table.with_truth(tokens, continuations, gamma)
    for name, part in zip(("v_a", "v_b"), truth_table.parts(continuations), strict=True):
        means = truth_table.estimates(part, gamma)["v_mc"]
        tokens[name] = means.reindex(tokens["state"]).to_numpy()
    if values is None:
        values = np.full(len(tokens), float(tokens["v_mc"].mean()))
    return [audit(tokens, values, lam, gamma) for lam in LAMBDAS]


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

    return _defined(jackknife(sums, figures))


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
    return {**figures, "sign_agreement": _defined(jackknife(sums, corrected))}


def _defined(found: Joint) -> Figure:
    """The single figure; undefined where it, or it without some problem, is."""
    known = np.all(np.isfinite(found.mean)) and np.all(np.isfinite(found.covariance))
    return found.linear([1]) if known else dict(UNDEFINED)


def _last(tokens: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each row is its trajectory's last token."""
    return ~tokens["trajectory"].duplicated(keep="last").to_numpy()


def _sign(numbers: Floats) -> Floats:
    return np.sign(np.where(np.abs(numbers) > 1e-9, numbers, 0.0))
