"""Evaluation of a model on the test split, greedy and sampled.

Every model gets the same prompts and the same seeds, so differences are taken per problem
(:mod:`criticflow.stages.compare`). ``python -m criticflow.evaluate --model DIR --data
TEST.parquet`` is the same by hand, for any model that vLLM loads.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from criticflow import config
from criticflow.errors import run_program
from criticflow.files import replacing, write_json
from criticflow.logs import progress
from criticflow.models.sampling import Engine
from criticflow.stages.samples import add_scores, per_prompt, read_problems
from criticflow.stats import outcomes


def evaluate_model(
    model_path: Path | str,
    model: config.Model,
    test_parquet: Path | str,
    max_prompt_length: int,
    max_response_length: int,
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
        max_prompt_length, max_response_length: tokens; longer prompts are left out and counted.
        name, kind: who this is, for the summary.
        model_name, task_name: base model (its own name, if this is one) and task, for the
            comparison with the base on the same task.
        seed: of the training run; None for a base.

    Raises:
        UserError: the model or the data is missing or broken.
    """
    problems = read_problems(test_parquet).head(evaluate.prompts or None)
    length = max_response_length
    with Engine(model_path, model, max_prompt_length + length, resources) as engine:
        problems, too_long = engine.fitting(problems, max_prompt_length, test_parquet)
        prompts = list(problems["prompt"])
        greedy = engine.generate(prompts, 1, 0.0, length, evaluate.seed)
        sampled = engine.generate(prompts, evaluate.n, evaluate.temperature, length, evaluate.seed)
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
        **model_figures(samples, evaluate),
    }
    out = Path(out_dir)
    with replacing(out / "samples.parquet") as partial:
        samples.to_parquet(partial, index=False)
    write_json(out / "summary.json", summary)
    progress(
        f"{name}: pass@1 {summary['pass@1']:.3f}, mean score {summary['mean_score']:.3f}, "
        f"greedy {summary['greedy']['pass@1']:.3f}, entropy {summary['avg_entropy']:.3f}"
    )
    return summary


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


def prompt_values(sampled: pd.DataFrame, ks: Sequence[int]) -> pd.DataFrame:
    """Per problem (index: key): the values whose means are the figures of a model."""
    sampled = sampled.sort_values(["prompt_index", "sample_index"])
    correct = per_prompt(sampled, "correct")
    counts = correct.sum(axis=1).astype(np.int64)
    columns = {"mean_score": per_prompt(sampled, "score").mean(axis=1)}
    for k in sorted({1, *ks}):
        columns[f"pass@{k}"] = outcomes.pass_at_k(counts, correct.shape[1], k)
    columns |= {
        "format_rate": per_prompt(sampled, "format_ok").mean(axis=1),
        "response_length": per_prompt(sampled, "n_tokens").mean(axis=1),
        "truncation_rate": per_prompt(sampled, "truncated").mean(axis=1),
    }
    keys = sampled.drop_duplicates("prompt_index")["key"]
    return pd.DataFrame(columns, index=pd.Index(keys, name="key"))


def _bounds(estimate: outcomes.Estimate) -> list[float] | None:
    if estimate.low is None or estimate.high is None:
        return None
    assert math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return [estimate.low, estimate.high]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m criticflow.evaluate",
        description="Evaluate a model on prepared problems; each is scored by its own task.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="model directory or hub name")
    add("--data", required=True, type=Path, help="prepared split: results/data/TASK/test.parquet")
    add("--out", required=True, type=Path, help="directory for summary.json and samples.parquet")
    add("--limit", type=int, help="only the first problems")
    add("--n", type=int, default=4, help="samples per prompt, beside the greedy response")
    add("--temperature", type=float, default=1.0, help="of the samples")
    add("--seed", type=int, default=0, help="of the samples and the bootstrap")
    add("--max-prompt-length", type=int, default=512, help="tokens")
    add("--max-response-length", type=int, default=1024, help="tokens")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="precision")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    add("--gpu", action="store_true", help="run on a GPU")
    given = parser.parse_args()
    counts = (given.n, given.max_prompt_length, given.max_response_length)
    if min(counts) < 1 or (given.limit is not None and given.limit < 1) or given.temperature <= 0:
        parser.error("--n, --limit and lengths are at least 1, --temperature is above 0")
    evaluate_model(
        given.model,
        config.Model(
            path=given.model, dtype=given.dtype, trust_remote_code=given.trust_remote_code
        ),
        given.data,
        given.max_prompt_length,
        given.max_response_length,
        config.Evaluate(
            n=given.n,
            prompts=given.limit,
            temperature=given.temperature,
            k=sorted({1, given.n}),
            seed=given.seed,
        ),
        config.Resources(gpu=int(given.gpu)),
        given.out,
        name=given.model,
        kind="base",
        model_name=given.model,
        task_name=str(given.data),
    )


if __name__ == "__main__":
    run_program(main)
