"""Evaluation of a model on the test split, and one table of all models.

Every model gets the same prompts and the same seeds, so differences are taken per problem.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from criticflow import config, metrics
from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json
from criticflow.logs import progress
from criticflow.sampling import Engine
from criticflow.scoring import add_scores, per_prompt, read_problems

log = logging.getLogger(__name__)

ENTROPY_COLLAPSE = 0.01
"""Nats a token; less means that the model has (nearly) one answer to each prompt."""
FORMAT_DROP = 0.05
"""Loss of format rate against the base that is worth a warning."""
LENGTH_COLLAPSE = 0.5
"""Share of the base's mean response length under which a model has stopped to reason."""

Mode = Literal["sampled", "greedy"]


def run(
    model_path: Path | str,
    model: config.Model,
    test_parquet: Path | str,
    task: config.Task,
    evaluate: config.Evaluate,
    resources: config.Resources,
    out_dir: Path | str,
    name: str,
    kind: Literal["base", "run"],
    model_name: str,
    task_name: str,
    seed: int | None = None,
) -> dict[str, Any]:
    """Sample from one model and write ``summary.json`` and ``samples.parquet`` to ``out_dir``.

    Args:
        model_path: the model's directory or hub name.
        model: its precision, and whether its own code may run.
        test_parquet: problems, as prepared; the first ``evaluate.prompts`` of them are used.
        name, kind: who this is, for the summary.
        model_name, task_name: base model (its own name, if this is one) and task, for the
            comparison with the base on the same task.
        seed: of the training run; None for a base.

    Raises:
        UserError: the model or the data is missing or broken.
    """
    problems = read_problems(test_parquet).head(evaluate.prompts or None)
    most = task.max_response_length
    with Engine(model_path, model, task.max_prompt_length + most, resources) as engine:
        problems, too_long = engine.fitting(problems, task.max_prompt_length)
        if problems.empty:
            raise UserError(f"{test_parquet}: every prompt is longer than {task.max_prompt_length}")
        prompts = list(problems["prompt"])
        greedy = engine.generate(prompts, 1, 0.0, most, evaluate.seed)
        sampled = engine.generate(prompts, evaluate.n, evaluate.temperature, most, evaluate.seed)
    samples = pd.concat(
        [
            add_scores(greedy, problems).assign(mode="greedy"),
            add_scores(sampled, problems).assign(mode="sampled"),
        ],
        ignore_index=True,
    )
    summary = {
        "name": name,
        "kind": kind,
        "seed": seed,
        "model": model_name,
        "task": task_name,
        "n_prompts": len(problems),
        "prompts_too_long": too_long,
        **figures(samples, evaluate),
    }
    out = Path(out_dir)
    with replacing(out / "samples.parquet") as aside:
        samples.to_parquet(aside, index=False)
    write_json(out / "summary.json", summary)
    progress(
        f"{name}: pass@1 {summary['pass@1']:.3f}, mean accuracy {summary['mean_accuracy']:.3f}, "
        f"greedy {summary['greedy']['pass@1']:.3f}, entropy {summary['avg_entropy']:.3f}"
    )
    return summary


def figures(samples: pd.DataFrame, evaluate: config.Evaluate) -> dict[str, Any]:
    """All figures of one model, with bootstrap intervals over prompts (``intervals``)."""
    sampled = samples[samples["mode"] == "sampled"]
    greedy = samples[samples["mode"] == "greedy"]
    values = prompt_values(sampled, evaluate.k)
    intervals = {
        figure: _bounds(
            metrics.bootstrap_mean(
                value.to_numpy(), evaluate.seed, evaluate.resamples, evaluate.confidence
            )
        )
        for figure, value in values.items()
    }
    entropy = metrics.entropy(list(sampled["logprobs"]), list(sampled["key"]))
    return {
        **{figure: float(value.mean()) for figure, value in values.items()},
        "avg_entropy": entropy.value,
        "avg_entropy_se": entropy.standard_error,
        "n_samples": evaluate.n,
        "temperature": evaluate.temperature,
        "confidence": evaluate.confidence,
        "intervals": intervals,
        "greedy": {
            "mean_accuracy": float(greedy["score"].mean()),
            "pass@1": float(greedy["correct"].mean()),
            "format_rate": float(greedy["format_ok"].mean()),
            "response_length": float(greedy["n_tokens"].mean()),
            "truncation_rate": float(greedy["truncated"].mean()),
        },
    }


def prompt_values(sampled: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Per problem (index: key): the values whose means are the figures of a model."""
    sampled = sampled.sort_values(["prompt_index", "sample_index"])
    correct = per_prompt(sampled, "correct")
    counts = correct.sum(axis=1).astype(np.int64)
    columns = {"mean_accuracy": per_prompt(sampled, "score").mean(axis=1)}
    for k in sorted({1, *ks}):
        columns[f"pass@{k}"] = metrics.pass_at_k(counts, correct.shape[1], k)
    columns |= {
        "format_rate": per_prompt(sampled, "format_ok").mean(axis=1),
        "response_length": per_prompt(sampled, "n_tokens").mean(axis=1),
        "truncation_rate": per_prompt(sampled, "truncated").mean(axis=1),
    }
    keys = sampled.drop_duplicates("prompt_index")["key"]
    return pd.DataFrame(columns, index=pd.Index(keys, name="key"))


def summarise(
    evaluations: Sequence[Path | str], out: Path | str, evaluate: config.Evaluate
) -> list[dict[str, Any]]:
    """Write one row per model, with its differences to its base, to ``out``.

    Args:
        evaluations: directories of evaluations. The base of a run is the one of kind ``base`` with
            the same ``model`` and ``task``.

    Raises:
        UserError: a run's base is not there, or was not evaluated on the same problems.
    """
    directories = [Path(directory) for directory in evaluations]
    summaries = [read_json(directory / "summary.json") for directory in directories]
    bases = {
        (row["model"], row["task"]): (directory, row)
        for directory, row in zip(directories, summaries, strict=True)
        if row["kind"] == "base"
    }
    rows = []
    for directory, row in zip(directories, summaries, strict=True):
        row["difference"], base = None, None
        if row["kind"] != "base":
            if (row["model"], row["task"]) not in bases:
                raise UserError(
                    f"{directory}: its base {row['model']} was not evaluated on {row['task']}"
                )
            base_directory, base = bases[row["model"], row["task"]]
            row["difference"] = difference(base_directory, directory, evaluate)
        row["warnings"] = health(row, base)
        for warning in row["warnings"]:
            progress(f"warning: {row['name']}: {warning}")
        rows.append(row)
    write_json(out, rows)
    return rows


def difference(base: Path, trained: Path, evaluate: config.Evaluate) -> dict[str, Any]:
    """Trained less base, per problem: bootstrap intervals, and McNemar for greedy answers."""
    first, second = _samples(base), _samples(trained)
    values = [
        prompt_values(frame[frame["mode"] == "sampled"], evaluate.k) for frame in (first, second)
    ]
    greedy = [
        frame[frame["mode"] == "greedy"].set_index("key")[["correct", "score"]]
        for frame in (first, second)
    ]
    if not values[0].index.is_unique or set(values[0].index) != set(values[1].index):
        raise UserError(
            f"{trained} and {base} were not evaluated on the same problems: evaluate both again"
        )
    order = values[0].index
    values[1], greedy[0], greedy[1] = (
        frame.loc[order] for frame in (values[1], greedy[0], greedy[1])
    )
    options = (evaluate.seed, evaluate.resamples, evaluate.confidence)
    found: dict[str, Any] = {
        figure: asdict(
            metrics.paired_difference(
                values[0][figure].to_numpy(), values[1][figure].to_numpy(), *options
            )
        )
        for figure in values[0].columns
    }
    right = [frame["correct"].to_numpy(dtype=bool) for frame in greedy]
    found["greedy"] = {
        "pass@1": asdict(
            metrics.paired_difference(right[0].astype(float), right[1].astype(float), *options)
        ),
        "mcnemar": asdict(metrics.mcnemar(right[0], right[1])),
    }
    return found


def health(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[str]:
    """What looks ill about a model: collapsed entropy, lost format, collapsed length."""
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


def comparison_table(base: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """``Base -> Trained`` as Markdown: each figure, its absolute and its relative change."""
    ks = sorted((key for key in base if key.startswith("pass@")), key=lambda key: int(key[5:]))
    lines = [
        f"| figure | {base['name']} -> {trained['name']} | absolute | relative |",
        "| --- | --- | --- | --- |",
    ]
    for figure in ("mean_accuracy", *ks, "avg_entropy", "format_rate", "response_length"):
        before, after = base[figure], trained[figure]
        relative = f"{(after - before) / before:+.1%}" if before else "n/a"
        lines.append(
            f"| {figure} | {before:.4f} -> {after:.4f} | {after - before:+.4f} | {relative} |"
        )
    return "\n".join(lines) + "\n"


def _samples(directory: Path) -> pd.DataFrame:
    columns = ["key", "mode", "prompt_index", "sample_index", "score", "correct", "format_ok"]
    return pd.read_parquet(
        directory / "samples.parquet", columns=[*columns, "n_tokens", "truncated"]
    )


def _bounds(estimate: metrics.Estimate) -> list[float] | None:
    if estimate.low is None or estimate.high is None:
        return None
    assert math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return [estimate.low, estimate.high]
