"""The signal probe: samples a base model on training problems and judges whether PPO can learn.

PPO learns from differences between responses to one prompt. Where all are wrong or all right there
is nothing to learn from, and where the model always answers the same there is nothing to compare.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import replacing, write_json
from criticflow.logs import progress
from criticflow.models.dialogues import SearchEngine, respond, tools
from criticflow.models.sampling import Engine
from criticflow.report.plots import plot_probe
from criticflow.stages.samples import add_scores, read_problems
from criticflow.stats import outcomes
from criticflow.stats.compare import dialogue_values
from criticflow.stats.outcomes import per_prompt

RESAMPLES = 2000
TOO_HARD, TOO_EASY = 0.05, 0.95
"""Accuracies beyond which training is no remedy: fine-tune first, or take harder data."""
TRUNCATED = 0.05
UNFORMATTED = 0.5
"""A truncation rate above, and a format rate below, that the advice mentions."""
FAILED = "failed"
"""Folder beside the outputs for those of a probe that fails its gate."""


def probe_signal(
    model_path: Path | str,
    model: config.Model,
    train_parquet: Path | str,
    task: config.Task,
    probe: config.Probe,
    resources: config.Resources,
    out_dir: Path | str,
    title: str = "",
    search: SearchEngine | None = None,
) -> dict[str, Any]:
    """Sample ``probe.n`` responses to training prompts and say whether they are worth training on.

    Writes ``summary.json``, ``samples.parquet`` and ``probe.png`` to ``out_dir``, and with
    ``probe.filter`` also ``train.parquet``, the filtered training set. A filter needs the outcomes
    of every training prompt, so it probes all of them instead of ``probe.prompts``.

    Raises:
        UserError: the model or the data is missing or broken; the filter keeps nothing; or, with
            ``gate: fail``, the verdict is bad. What was found then lies in ``out_dir/failed``:
            Snakemake deletes the outputs of a rule that fails.
    """
    problems = read_problems(train_parquet)
    rows = len(problems)
    max_tokens = task.max_response_length
    positions = task.max_prompt_length + max_tokens
    with Engine(model_path, model, positions, resources, tools=tools(search)) as engine:
        problems, too_long = engine.fitting(problems, task.max_prompt_length, train_parquet)
        if probe.filter is None:
            order = np.random.default_rng(probe.seed).permutation(len(problems))[: probe.prompts]
            problems = problems.iloc[np.sort(order)].reset_index(drop=True)
        prompts = list(problems["prompt"])
        sampled = respond(
            engine, search, prompts, probe.n, probe.temperature, max_tokens, probe.seed
        )
    samples = add_scores(sampled, problems)
    summary = {
        "n_prompts": len(problems),
        "n_samples": probe.n,
        "temperature": probe.temperature,
        "training_prompts": rows,
        "prompts_too_long": too_long,  # of all training prompts; training leaves them out
        "figures": signal_figures(samples, probe),
    }
    summary["verdict"] = verdict(summary["figures"], probe)
    summary["examples"] = examples(samples)
    out = Path(out_dir)
    if probe.filter is not None:
        kept, summary["filter"] = filtered_training_set(train_parquet, samples, probe.filter)
        with replacing(out / "train.parquet") as partial:
            kept.to_parquet(partial, index=False)
    with replacing(out / "samples.parquet") as partial:
        samples.to_parquet(partial, index=False)
    plot_probe(
        per_prompt(samples, "correct").mean(axis=1),
        outcomes.reward_variance(per_prompt(samples, "score")),
        samples["n_tokens"].to_numpy(dtype=np.float64),
        probe.n,
        title,
        out / "probe.png",
    )
    write_json(out / "summary.json", summary)
    _report(summary, probe.gate, out)
    return summary


def signal_figures(samples: pd.DataFrame, probe: config.Probe) -> dict[str, dict[str, Any]]:
    """Every figure as ``value``, ``low`` and ``high``: 95 % bootstrap intervals over prompts.

    The variances are population variances over one prompt's ``n`` samples. ``entropy`` has its
    standard error besides (:func:`criticflow.stats.outcomes.entropy`).
    """
    correct = per_prompt(samples, "correct")
    counts = correct.sum(axis=1).astype(np.int64)
    score = per_prompt(samples, "score")
    wrong, right = counts == 0, counts == probe.n
    tokens = per_prompt(samples, "n_tokens")
    values = {
        "accuracy": correct.mean(axis=1),
        "mean_reward": score.mean(axis=1),
        "reward_variance": outcomes.reward_variance(score),
        "accuracy_variance": outcomes.reward_variance(correct),
        "all_wrong": wrong.astype(float),
        "mixed": (~wrong & ~right).astype(float),
        "all_right": right.astype(float),
        "response_length": tokens.mean(axis=1),
        "truncation_rate": per_prompt(samples, "truncated").mean(axis=1),
        "format_rate": per_prompt(samples, "format_ok").mean(axis=1),
        **{f"pass@{k}": outcomes.pass_at_k(counts, probe.n, k) for k in range(1, probe.n + 1)},
        **dialogue_values(samples),
    }
    found = {
        name: asdict(outcomes.bootstrap_mean(value, probe.seed, RESAMPLES))
        for name, value in values.items()
    }
    # By position, not by key: the order of per_prompt's rows.
    ordered = samples.sort_values(["prompt_index", "sample_index"])
    entropy = outcomes.entropy(list(ordered["logprobs"]), list(ordered["prompt_index"]))
    nats = -np.array([np.sum(row) for row in ordered["logprobs"]]).reshape(tokens.shape).sum(axis=1)
    interval = outcomes.bootstrap_mean(nats, probe.seed, RESAMPLES, weights=tokens.sum(axis=1))
    found["entropy"] = asdict(interval) | {"standard_error": entropy.standard_error}
    return found


def verdict(figures: dict[str, dict[str, Any]], probe: config.Probe) -> dict[str, Any]:
    """Each criterion against its limits, advice, and ``ok``: whether all of them are met."""
    accuracy, variance = figures["accuracy"]["value"], figures["reward_variance"]["value"]
    entropy = figures["entropy"]["value"]
    criteria = {
        "accuracy": _criterion(accuracy, *probe.accuracy),
        "reward_variance": _criterion(variance, probe.variance_min, None),
        "entropy": _criterion(entropy, *probe.entropy),
    }
    advice = []
    if accuracy < TOO_HARD:
        advice.append(f"accuracy {accuracy:.1%}: too hard, fine-tune the model first")
    elif accuracy > TOO_EASY:
        advice.append(f"accuracy {accuracy:.1%}: too easy, take harder data")
    elif not criteria["accuracy"]["ok"]:
        harder = "harder" if accuracy > probe.accuracy[1] else "easier"
        advice.append(f"accuracy {accuracy:.1%} is outside its range: consider {harder} data")
    if not criteria["reward_variance"]["ok"]:
        advice.append(
            f"mean reward variance {variance:.3f} is under {probe.variance_min}: most prompts are "
            "all wrong or all right; filter for mixed prompts (probe.filter: mixed)"
        )
    if entropy < probe.entropy[0]:
        advice.append(f"entropy {entropy:.3f} is low: raise the temperature or fine-tune less")
    elif entropy > probe.entropy[1]:
        advice.append(f"entropy {entropy:.3f} is high: fine-tune more, or lower the temperature")
    if (truncated := figures["truncation_rate"]["value"]) > TRUNCATED:
        advice.append(f"{truncated:.1%} of responses are truncated: raise max_response_length")
    if (formatted := figures["format_rate"]["value"]) < UNFORMATTED:
        advice.append(f"only {formatted:.1%} keep the answer format: fix the prompt")
    return {
        "ok": all(criterion["ok"] for criterion in criteria.values()),
        "criteria": criteria,
        "advice": advice,
    }


def filtered_training_set(
    train_parquet: Path | str, samples: pd.DataFrame, rule: str | list[float]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of the training set whose sampled pass rate fits ``rule``, and counts.

    Args:
        samples: scored samples of the probe, with the problems' keys.
        rule: ``"mixed"`` (neither all wrong nor all right) or a range ``[low, high]``, ends
            included.

    Raises:
        UserError: nothing is left.
    """
    frame = pd.read_parquet(train_parquet)
    rates = samples.groupby("key")["correct"].mean()
    rate = pd.Series([extra["key"] for extra in frame["extra_info"]]).map(rates).to_numpy(float)
    probed = ~np.isnan(rate)
    low, high = (0.0, 1.0) if rule == "mixed" else (float(rule[0]), float(rule[1]))
    below = probed & ((rate <= low) if rule == "mixed" else (rate < low))
    above = probed & ((rate >= high) if rule == "mixed" else (rate > high))
    kept = probed & ~below & ~above
    counts = {
        "rule": rule,
        "rows": len(frame),
        "not_probed": int(np.sum(~probed)),
        "too_hard": int(np.sum(below)),
        "too_easy": int(np.sum(above)),
        "kept": int(np.sum(kept)),
    }
    if not kept.any():
        raise UserError(f"probe.filter {rule} keeps no row of {train_parquet}: {counts}")
    return frame[kept].reset_index(drop=True), counts


def examples(samples: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Examples for a person to read: the 3 prompts each with the best, worst and most mixed
    outcomes."""
    rates = samples.groupby("prompt_index", sort=True)["correct"].mean()
    orders = {
        "best": rates.sort_values(ascending=False, kind="stable"),
        "worst": rates.sort_values(kind="stable"),
        "divided": (rates - 0.5).abs().sort_values(kind="stable"),
    }
    return {
        name: [_example(samples, index, float(rates[index])) for index in order.index[:3]]
        for name, order in orders.items()
    }


def _example(samples: pd.DataFrame, prompt_index: int, rate: float) -> dict[str, Any]:
    rows = samples[samples["prompt_index"] == prompt_index]
    # Of each outcome two, so that a divided prompt shows what divides it.
    both = rows.groupby("correct", sort=True).head(2)
    rows = (both if rows["correct"].nunique() == 2 else rows).head(4)
    return {
        "key": rows["key"].iloc[0],
        "prompt": rows["prompt"].iloc[0],
        "pass_rate": rate,
        "responses": [
            {"response": response, "score": float(score), "correct": bool(correct)}
            for response, score, correct in zip(
                rows["response"], rows["score"], rows["correct"], strict=True
            )
        ],
    }


def _criterion(value: float, low: float, high: float | None) -> dict[str, Any]:
    ok = low <= value and (high is None or value <= high)
    return {"ok": ok, "value": value, "low": low, "high": high}


def _report(summary: dict[str, Any], gate: str, out: Path) -> None:
    """Print the verdict; with ``gate: fail`` a bad one is an error."""
    figures, found = summary["figures"], summary["verdict"]
    shown = ", ".join(
        f"{name.replace('_', ' ')} {figures[name]['value']:.3f}"
        for name in ("accuracy", "reward_variance", "entropy")
    )
    shutil.rmtree(out / FAILED, ignore_errors=True)
    if gate == "off" or found["ok"]:
        progress(f"probe: {shown}: {'good' if found['ok'] else 'not good (gate: off)'}")
        return
    message = f"probe: {shown}: not good: {'; '.join(found['advice'])}"
    if gate == "fail":
        with replacing(out / FAILED) as partial:
            partial.mkdir()
            for name in ("summary.json", "samples.parquet", "probe.png"):
                shutil.copy2(out / name, partial)
        raise UserError(f"{message} (probe.gate: fail); what the probe found is in {out / FAILED}")
    progress(f"warning: {message}")
