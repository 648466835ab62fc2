"""Statistics of sampled responses: pass@k, entropy, bootstrap intervals, McNemar's test.

Outcomes are arrays of shape ``(prompts, samples)``; intervals resample prompts, because the samples
of one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds of its confidence interval (None: too few prompts to tell)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Entropy:
    """Entropy in nats a token, its standard error, and how many tokens it comes from."""

    value: float
    standard_error: float | None
    tokens: int


@dataclass(frozen=True)
class McNemar:
    """Prompts that only one of two models solves, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def per_prompt(samples: pd.DataFrame, column: str) -> Floats:
    """A column as an array ``(prompts, samples)``, by ``prompt_index`` and ``sample_index``.

    Raises:
        ValueError: not every prompt has the same number of samples.
    """
    ordered = samples.sort_values(["prompt_index", "sample_index"])
    sizes = ordered.groupby("prompt_index").size()
    if sizes.nunique() != 1:
        raise ValueError("prompts differ in their number of samples")
    return ordered[column].to_numpy(dtype=np.float64).reshape(len(sizes), -1)


def pass_at_k(correct: NDArray[np.integer], n: int, k: int) -> Floats:
    """Probability that at least one of ``k`` samples is correct, per prompt, without bias.

    ``1 - C(n - c, k) / C(n, k)`` for ``c`` correct samples of ``n`` (Chen et al. 2021, "Evaluating
    Large Language Models Trained on Code", equation 1), as a product to avoid large numbers.

    Args:
        correct: correct samples per prompt, shape ``(prompts,)``.

    Raises:
        ValueError: k is not in 1..n, or a count is not in 0..n.
    """
    counts = np.asarray(correct)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs between 1 and n={n} samples")
    if np.any((counts < 0) | (counts > n)):
        raise ValueError(f"counts of correct samples must be in 0..{n}")
    wrong = (n - counts)[:, None]
    drawn = np.arange(k)[None, :]
    return 1.0 - np.prod(np.clip(wrong - drawn, 0, None) / (n - drawn), axis=1)


def entropy(logprobs: Sequence[Sequence[float]], prompts: Sequence[object]) -> Entropy:
    """Mean entropy of the sampling distribution over all positions of all responses.

    The mean of ``-log p(token)`` over sampled tokens: unbiased for the sum of the entropies at the
    positions, because the expectation of ``-log p`` under ``p`` is its entropy. The mean is a ratio
    (tokens are counted, lengths are random); its standard error is the linearised one that takes
    the tokens of one prompt as one cluster (Cochran 1977, Sampling Techniques, section 6.4).

    Args:
        logprobs: per response, log-probability of each sampled token under the distribution it was
            drawn from.
        prompts: per response, what identifies its prompt.
    """
    frame = pd.DataFrame(
        {
            "prompt": list(prompts),
            "nats": [-float(np.sum(row)) for row in logprobs],
            "tokens": [len(row) for row in logprobs],
        }
    )
    cluster = frame.groupby("prompt", sort=False)[["nats", "tokens"]].sum()
    tokens = int(cluster["tokens"].sum())
    if tokens == 0:
        raise ValueError("no sampled tokens: every response is empty")
    mean = float(cluster["nats"].sum() / tokens)
    count = len(cluster)
    if count < 2:
        return Entropy(mean, None, tokens)
    residual = (cluster["nats"] - mean * cluster["tokens"]).to_numpy()
    variance = count / (count - 1) * float(np.sum(residual**2)) / tokens**2
    return Entropy(mean, float(np.sqrt(variance)), tokens)


def reward_variance(rewards: Floats) -> Floats:
    """Population variance of the rewards of each prompt, shape ``(prompts,)``."""
    return np.var(np.asarray(rewards, dtype=np.float64), axis=1)


def bootstrap_mean(
    per_prompt: Floats,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
    weights: Floats | None = None,
) -> Estimate:
    """Mean over prompts with a percentile bootstrap interval (Efron 1979) over prompts.

    With ``weights`` the figure is ``sum(per_prompt) / sum(weights)``, a ratio over prompts such as
    nats per token.
    """
    values = np.asarray(per_prompt, dtype=np.float64)
    divisors = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)

    def ratio(rows: NDArray[np.integer]) -> Floats:
        below = divisors[rows].sum(axis=-1)
        return values[rows].sum(axis=-1) / np.where(below > 0, below, 1.0)

    return _bootstrap(ratio, len(values), seed, resamples, confidence)


def paired_difference(
    base: Floats, trained: Floats, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> Estimate:
    """Mean of ``trained - base`` over the same prompts, prompts resampled in pairs.

    Raises:
        ValueError: the two don't have one value per common prompt.
    """
    first, second = np.asarray(base, dtype=np.float64), np.asarray(trained, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"not the same prompts: {first.shape} and {second.shape}")
    return bootstrap_mean(second - first, seed, resamples, confidence)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Exact McNemar test of two models' greedy answers to the same prompts (McNemar 1947).

    Under the null hypothesis each of the two models is the one that solves such a prompt with
    probability 1/2.
    """
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(~first & second))
    discordant = only_first + only_second
    p_value = stats.binomtest(only_first, discordant, 0.5).pvalue if discordant else 1.0
    return McNemar(only_first, only_second, float(p_value))


def bootstrap_weights(
    statistic: Callable[[Floats], Floats],
    prompts: int,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """A figure of weighted prompts with its percentile bootstrap interval over prompts.

    Args:
        statistic: weights ``(resamples, prompts)`` (how often each prompt was drawn) to the figure
            ``(resamples,)``. Resamples for which it is nan have no part in the interval.
    """

    def of_rows(rows: NDArray[np.integer]) -> Floats:
        draws = np.atleast_2d(rows)
        weights = np.stack([np.bincount(draw, minlength=prompts) for draw in draws])
        return statistic(weights.astype(np.float64)).reshape(rows.shape[:-1])

    return _bootstrap(of_rows, prompts, seed, resamples, confidence)


def _bootstrap(
    statistic: Callable[[NDArray[np.integer]], Floats],
    count: int,
    seed: int,
    resamples: int,
    confidence: float,
) -> Estimate:
    if count == 0:
        raise ValueError("no prompts")
    value = float(statistic(np.arange(count)))
    if count < 2 or np.isnan(value):
        return Estimate(value, None, None)
    generator = np.random.default_rng(seed)
    chunk = max(1, 500_000 // count)  # bounds memory, not the result: draws come in one stream
    drawn = [
        statistic(generator.integers(count, size=(min(chunk, resamples - start), count)))
        for start in range(0, resamples, chunk)
    ]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.concatenate(drawn), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
