"""A trained model beside its base: differences per problem, changes, and warning signs.

Samples are tables with a row per response and the columns :data:`OF_SAMPLES`; dialogues with a
search engine have :data:`OF_DIALOGUES` besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import outcomes

ENTROPY_COLLAPSE = 0.01
"""Nats a token; less means that the model has (nearly) one answer to each prompt."""
FORMAT_DROP = 0.05
"""Loss of format rate against the base that is worth a warning."""
LENGTH_COLLAPSE = 0.5
"""Share of the base's mean response length under which a model has stopped reasoning."""
OF_SAMPLES = (
    "key",
    "mode",
    "prompt_index",
    "sample_index",
    "score",
    "correct",
    "format_ok",
    "n_tokens",
    "truncated",
)
"""Columns of samples that figures come from. ``key``: the problem; ``mode``: greedy or sampled."""
OF_DIALOGUES = ("turns", "searches", "tokens_read", "f1", "gold_retrieved")
"""Columns of samples whose means are figures where there is search: turns of the model, searches,
tokens that were read, F1 of the answer, and the share of the gold documents that was read."""


class OtherProblems(ValueError):
    """Two models were evaluated on different problems: there is nothing to pair."""


def prompt_values(sampled: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Per problem (index: key): the values whose means are the figures of a model."""
    sampled = sampled.sort_values(["prompt_index", "sample_index"])
    correct = outcomes.per_prompt(sampled, "correct")
    counts = correct.sum(axis=1).astype(np.int64)
    columns = {"mean_score": outcomes.per_prompt(sampled, "score").mean(axis=1)}
    for k in sorted({1, *ks}):
        columns[f"pass@{k}"] = outcomes.pass_at_k(counts, correct.shape[1], k)
    columns |= {
        "format_rate": outcomes.per_prompt(sampled, "format_ok").mean(axis=1),
        "response_length": outcomes.per_prompt(sampled, "n_tokens").mean(axis=1),
        "truncation_rate": outcomes.per_prompt(sampled, "truncated").mean(axis=1),
    }
    columns |= dialogue_values(sampled)
    keys = sampled.drop_duplicates("prompt_index")["key"]
    return pd.DataFrame(columns, index=pd.Index(keys, name="key"))


def dialogue_values(sampled: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Per problem: means of those of :data:`OF_DIALOGUES` that the samples have."""
    there = [name for name in OF_DIALOGUES if name in sampled]
    return {name: outcomes.per_prompt(sampled, name).mean(axis=1) for name in there}


def difference(
    base: pd.DataFrame,
    trained: pd.DataFrame,
    ks: Sequence[int],
    seed: int,
    resamples: int,
    confidence: float,
) -> dict[str, Any]:
    """Trained less base, per problem: bootstrap intervals, and McNemar for greedy answers.

    Args:
        base, trained: samples of the same problems, in any order.
        ks: pass@k for these k.
        seed, resamples, confidence: of the bootstrap over problems.

    Raises:
        OtherProblems: the two are not of the same problems.
    """
    frames = (base, trained)
    values = [prompt_values(frame[frame["mode"] == "sampled"], ks) for frame in frames]
    greedy = [
        frame[frame["mode"] == "greedy"].set_index("key")[["correct", "score"]] for frame in frames
    ]
    if not values[0].index.is_unique or set(values[0].index) != set(values[1].index):
        raise OtherProblems("the two were not evaluated on the same problems")
    order = values[0].index
    values[1], greedy[0], greedy[1] = (
        frame.loc[order] for frame in (values[1], greedy[0], greedy[1])
    )
    options = (seed, resamples, confidence)
    found: dict[str, Any] = {
        figure: asdict(
            outcomes.paired_difference(
                values[0][figure].to_numpy(), values[1][figure].to_numpy(), *options
            )
        )
        for figure in values[0].columns
    }
    right = [frame["correct"].to_numpy(dtype=bool) for frame in greedy]
    found["greedy"] = {
        "pass@1": asdict(
            outcomes.paired_difference(right[0].astype(float), right[1].astype(float), *options)
        ),
        "mcnemar": asdict(outcomes.mcnemar(right[0], right[1])),
    }
    return found


def health(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[str]:
    """Warnings about a model: collapsed entropy, lost answer format, collapsed length."""
    found = []
    if row["avg_entropy"] < ENTROPY_COLLAPSE:
        found.append(
            f"entropy {row['avg_entropy']:.4f} is under {ENTROPY_COLLAPSE} nats a token: "
            "mode collapse"
        )
    if base is None:
        return found
    if row["format_rate"] < base["format_rate"] - FORMAT_DROP:
        found.append(f"format rate fell from {base['format_rate']:.3f} to {row['format_rate']:.3f}")
    if row["response_length"] < LENGTH_COLLAPSE * base["response_length"]:
        found.append(
            f"mean response length fell from {base['response_length']:.1f} to "
            f"{row['response_length']:.1f} tokens"
        )
    return found


def comparison(base: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Per figure ``base``, ``trained``, ``absolute`` and ``relative`` change (None: base is 0)."""
    ks = sorted((key for key in base if key.startswith("pass@")), key=lambda key: int(key[5:]))
    found = {}
    for figure in ("mean_score", *ks, "avg_entropy", "format_rate", "response_length"):
        before, after = base[figure], trained[figure]
        found[figure] = {
            "base": before,
            "trained": after,
            "absolute": after - before,
            "relative": (after - before) / before if before else None,
        }
    return found
