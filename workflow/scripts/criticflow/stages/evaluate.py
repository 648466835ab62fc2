"""Evaluation of a model on the test split, greedy and sampled.

Every model gets the same prompts and the same seeds, so differences are taken per problem
(:mod:`criticflow.stats.compare`). ``criticflow evaluate`` is the same by hand, for any model that
vLLM loads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from criticflow import config
from criticflow.files import replacing, write_json
from criticflow.logs import progress
from criticflow.models.dialogues import SearchEngine, respond, tools
from criticflow.models.sampling import Engine
from criticflow.stages.samples import add_scores, read_problems
from criticflow.stats import outcomes
from criticflow.stats.compare import prompt_values

Ask = Callable[[int, float, int], pd.DataFrame]
"""Responses to all problems, by samples of each, temperature (0: greedy) and seed."""


@dataclass(frozen=True)
class Subject:
    """Who is evaluated: the first keys of a row of the summary."""

    name: str
    kind: Literal["base", "run"]
    seed: int | None
    """Of the training; None for a base model."""
    model: str
    """The base model: what a run started from, or the model itself."""
    task: str


@dataclass(frozen=True)
class Evaluation:
    """How one model is sampled.

    Attributes:
        model_path: the model's directory or hub name.
        model: its precision, and whether its own code may run.
        test_parquet: problems, as prepared; the first ``evaluate.prompts`` of them are used.
        max_prompt_length, max_response_length: tokens; longer prompts are left out and counted.
        search: of a task with search.
    """

    model_path: Path | str
    model: config.Model
    test_parquet: Path | str
    max_prompt_length: int
    max_response_length: int
    evaluate: config.Evaluate
    resources: config.Resources
    search: SearchEngine | None = None


def evaluate_model(job: Evaluation, subject: Subject, out_dir: Path | str) -> dict[str, Any]:
    """Sample from one model and write ``summary.json`` and ``samples.parquet`` to ``out_dir``.

    Raises:
        UserError: the model or the data is missing or broken.
    """
    samples, too_long = sample(job)
    summary = {
        **asdict(subject),
        "n_prompts": samples["prompt_index"].nunique(),
        "prompts_too_long": too_long,
        **model_figures(samples, job.evaluate),
    }
    out = Path(out_dir)
    with replacing(out / "samples.parquet") as partial:
        samples.to_parquet(partial, index=False)
    write_json(out / "summary.json", summary)
    progress(
        f"{subject.name}: pass@1 {summary['pass@1']:.3f}, mean score {summary['mean_score']:.3f}, "
        f"greedy {summary['greedy']['pass@1']:.3f}, entropy {summary['avg_entropy']:.3f}"
    )
    return summary


def sample(job: Evaluation) -> tuple[pd.DataFrame, int]:
    """Scored responses, greedy and sampled (column ``mode``), and how many prompts are too long.

    Raises:
        UserError: the model or the data is missing or broken.
    """
    evaluate = job.evaluate
    with asking(job) as (ask, problems, too_long):
        parts = {
            "greedy": ask(1, 0.0, evaluate.seed),
            "sampled": ask(evaluate.n, evaluate.temperature, evaluate.seed),
        }
    scored = [add_scores(part, problems).assign(mode=mode) for mode, part in parts.items()]
    return pd.concat(scored, ignore_index=True), too_long


@contextmanager
def asking(job: Evaluation) -> Iterator[tuple[Ask, pd.DataFrame, int]]:
    """A running engine: what asks it, the problems that fit it, and how many are too long.

    Raises:
        UserError: the model or the data is missing or broken.
    """
    problems = read_problems(job.test_parquet).head(job.evaluate.prompts or None)
    positions = job.max_prompt_length + job.max_response_length
    shown = tools(job.search)
    with Engine(job.model_path, job.model, positions, job.resources, tools=shown) as engine:
        problems, too_long = engine.fitting(problems, job.max_prompt_length, job.test_parquet)
        prompts = list(problems["prompt"])

        def ask(n: int, temperature: float, seed: int) -> pd.DataFrame:
            length = job.max_response_length
            return respond(engine, job.search, prompts, n, temperature, length, seed)

        yield ask, problems, too_long


def model_figures(samples: pd.DataFrame, evaluate: config.Evaluate) -> dict[str, Any]:
    """All figures of one model, with bootstrap intervals over prompts (``intervals``)."""
    sampled = samples[samples["mode"] == "sampled"]
    greedy = samples[samples["mode"] == "greedy"]
    values = prompt_values(sampled, evaluate.k)
    intervals = {
        figure: _bounds(
            outcomes.bootstrap_mean(
                value.to_numpy(), evaluate.seed, evaluate.resamples, evaluate.confidence
            )
        )
        for figure, value in values.items()
    }
    entropy = outcomes.entropy(list(sampled["logprobs"]), list(sampled["key"]))
    return {
        **{figure: float(value.mean()) for figure, value in values.items()},
        "avg_entropy": entropy.value,
        "avg_entropy_se": entropy.standard_error,
        "n_samples": evaluate.n,
        "temperature": evaluate.temperature,
        "confidence": evaluate.confidence,
        "intervals": intervals,
        "greedy": {
            "mean_score": float(greedy["score"].mean()),
            "pass@1": float(greedy["correct"].mean()),
            "format_rate": float(greedy["format_ok"].mean()),
            "response_length": float(greedy["n_tokens"].mean()),
            "truncation_rate": float(greedy["truncated"].mean()),
        },
    }


def _bounds(estimate: outcomes.Estimate) -> list[float] | None:
    if estimate.low is None or estimate.high is None:
        return None
    assert math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return [estimate.low, estimate.high]
