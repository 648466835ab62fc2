"""A finished study that nobody trained: results as the stages write them, from invented rollouts.

The stages that only read and reckon (evaluation figures, summary, arms, contrasts, savings,
critics) are the real ones; what an engine, a training or a critic would give is drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import save_file
from snake import PROJECT

from criticflow.config import Config, load_config
from criticflow.config.contrasts import declared
from criticflow.config.merging import merge
from criticflow.files import write_json
from criticflow.stages import compare, contrasts, critics, evaluate, savings, speed
from criticflow.stages.audited_tokens import tokens_of
from criticflow.stages.shown_responses import shown_responses
from criticflow.stats import truth_table, value_rows
from criticflow.stats.advantage_audit import Audited
from criticflow.stats.value_ranking import Pieces
from criticflow.training import provenance
from criticflow.training.deciding import execution

PROBLEMS = 40
STEPS = 40
PROBE = {
    "n_prompts": 128,
    "n_samples": 16,
    "training_prompts": 4360,
    "prompts_too_long": 12,
    "figures": {
        "accuracy": {"value": 0.3, "low": 0.25, "high": 0.35},
        "entropy": {"value": 0.93, "low": None, "high": None},
    },
    "verdict": {
        "ok": False,
        "criteria": {"accuracy": {"ok": True}, "entropy": {"ok": False}},
        "advice": ["entropy is above 0.8: lower the temperature"],
    },
    "examples": {
        group: [
            {
                "prompt": "<|user|>1 2 = 3",
                "pass_rate": 0.5,
                "responses": [{"response": "<answer>1+2", "score": 0.1, "correct": False}],
            }
        ]
        for group in ("best", "worst", "divided")
    },
}


class Letters:
    """A tokenizer of single characters."""

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


def configuration(*names: str, **over: Any) -> Config:
    """The default with files of ``config/`` over it, and single keys over those."""
    raw: dict[str, Any] = {}
    for name in ("config.yaml", *names):
        path = PROJECT / "config" / name
        raw = merge(raw, yaml.safe_load(path.read_text(encoding="utf-8")))
    return load_config(merge(raw, over))


def write_study(workdir: Path, config: Config, effect: float = 0.15) -> None:
    """All files that the report of ``config`` is made from.

    Args:
        effect: by how much more often an arm with a saved critic solves a problem.
    """
    results = workdir / "results"
    bases = sorted({(run.model, run.task) for run in config.runs.values()})
    folders = []
    for model, task in bases:
        folders.append(results / "eval/base" / model / task)
        _evaluated(folders[-1], model, "base", model, task, None, 0.35, config)
        _probe(results / "probe" / model / task)
    rows: list[dict[str, Any]] = []
    for number, (name, seed) in enumerate(config.run_seeds()):
        run = config.runs[name]
        draw = np.random.default_rng([number, 7])
        rate = 0.45 + (effect if run.critic.from_run else 0) - 0.1 * run.reward_mask.ratio
        folders.append(results / "eval/runs" / name / f"seed{seed}")
        samples = _evaluated(
            folders[-1],
            name,
            "run",
            run.model,
            run.task,
            seed,
            rate + draw.normal(0, 0.02),
            config,
        )
        _trained(results / "runs" / name / f"seed{seed}", name, seed, config, draw)
        if run.algorithm == "ppo":
            rows += _critic(results, name, seed, samples, config, draw)
    write_json(results / "critics.json", rows)
    compare.summarise(folders, results / "summary.json", config.evaluate)
    compared = declared(config.contrasts, config.runs)
    samples_of = _files(results / "eval/runs", config, "samples.parquet")
    contrasts.write_arms(samples_of, compared, results / "arms.json")
    contrasts.write_contrasts(
        samples_of, compared, config.smallest_effect, results / "contrasts.json"
    )
    models = [
        {
            run: {seed: path for seed, path in seeds.items() if path.exists()}
            for run, seeds in _files(results / "runs", config, name).items()
        }
        for name in ("metrics.parquet", "actor", "critic")
    ]
    savings.write_savings(config, *models, results / "savings.json")
    speed.write_speed(config, *models, compared, results / "speed.json")
    write_json(results / "tempered.json", _tempered(config))


def _tempered(config: Config) -> list[dict[str, Any]]:
    return [
        {
            "arm": run,
            "seeds": config.seeds_of(run),
            "temperature": 0.344,
            "entropy": 0.153,
            "actor_entropy": 0.154,
            "base": 0.313,
            "sampled": {"value": 0.169, "low": 0.142, "high": 0.196},
            "greedy": {"value": 0.222, "low": 0.184, "high": 0.259},
        }
        for run in config.runs
        if config.has_tempered(run)
    ]


def _files(folder: Path, config: Config, name: str) -> dict[str, dict[int, Path]]:
    found: dict[str, dict[int, Path]] = {}
    for run, seed in config.run_seeds():
        found.setdefault(run, {})[seed] = folder / run / f"seed{seed}" / name
    return found


def _evaluated(
    folder: Path,
    name: str,
    kind: str,
    model: str,
    task: str,
    seed: int | None,
    rate: float,
    config: Config,
) -> pd.DataFrame:
    draw = np.random.default_rng([seed or 0, len(name)])
    hard = np.random.default_rng(0).normal(0, 0.15, PROBLEMS)
    rows = []
    for problem in range(PROBLEMS):
        for mode, count in (("greedy", 1), ("sampled", config.evaluate.n)):
            for sample in range(count):
                right = bool(draw.random() < rate + hard[problem])
                length = int(draw.integers(8, 22))
                response = ("<answer>" + "12+7-3*4/5" * 2)[:length] + "</answer>"
                prompt = f"<|user|>{problem} 3 7 = {problem + 4}<|end|>"
                rows.append(
                    {
                        "prompt_index": problem,
                        "sample_index": sample,
                        "prompt": prompt,
                        "prompt_tokens": [ord(letter) for letter in prompt],
                        "response": response,
                        "tokens": [ord(letter) for letter in response],
                        "n_tokens": len(response),
                        "logprobs": draw.uniform(-0.9, 0, len(response)),
                        "truncated": False,
                        "key": f"problem {problem}",
                        "score": 1.0 if right else 0.1,
                        "correct": right,
                        "format_ok": True,
                        "mode": mode,
                    }
                )
    samples = pd.DataFrame(rows)
    folder.mkdir(parents=True, exist_ok=True)
    samples.to_parquet(folder / "samples.parquet")
    identity = {"name": name, "kind": kind, "seed": seed, "model": model, "task": task}
    identity |= {"n_prompts": PROBLEMS, "prompts_too_long": 0}
    write_json(folder / "summary.json", identity | evaluate.model_figures(samples, config.evaluate))
    return samples


def _trained(folder: Path, name: str, seed: int, config: Config, draw: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run = config.runs[name]
    steps = np.arange(1, run.train.steps + 1)
    many = len(steps)
    learns = run.algorithm == "ppo" and not run.critic.freeze
    table = {
        "step": steps,
        "critic/score/mean": 0.45 + steps / 200 + draw.normal(0, 0.02, many),
        "prompt_length/mean": np.full(many, 12.0),
        "response_length/mean": 22 + draw.normal(0, 0.3, many),
        "actor/entropy": np.maximum(0.005, 0.4 - steps / (100 - 12 * seed)),
        "actor/ppo_kl": draw.normal(0, 0.001, many),
        "actor/grad_norm": draw.uniform(0.04, 0.6, many),
        "actor/perf/max_memory_allocated_gb": np.full(many, 1.4 if learns else 1.1),
        "perf/total_num_tokens": draw.integers(4000, 5000, many),
        "timing_s/step": draw.uniform(2.4, 2.8, many) + (0.6 if learns else 0),
        "timing_s/gen": draw.uniform(0.5, 0.6, many),
        "timing_s/update_actor": draw.uniform(0.8, 0.9, many),
        "criticflow/lost_trajectories": 0,
    }
    if run.algorithm == "ppo":
        table |= {
            "critic/values/mean": 0.5 - 0.4 / steps,
            "criticflow/explained_variance/true_return": 0.2 - 0.7 / steps,
            "timing_s/values": draw.uniform(0.1, 0.2, many),
        }
        _model(folder / "critic", 3000)
    _model(folder / "actor", 4000)
    if learns:
        table |= {
            "critic/grad_norm": draw.uniform(0.5, 2, many),
            "timing_s/update_critic": draw.uniform(0.5, 0.7, many),
        }
    if run.train.test_every > 0:
        level = 0.45 + steps / 300 + draw.normal(0, 0.02, many)
        score = np.where(steps % run.train.test_every == 0, level, np.nan)
        table["val-core/countdown/reward/mean@1"] = score
    pd.DataFrame(table).to_parquet(folder / "metrics.parquet")
    inputs = {"data/train.parquet": "0" * 64, "model/model.safetensors": "2" * 64}
    made_from = {"inputs": inputs, "revisions": {}, "environment": {}}
    code = {"code": {"verl_plugin/reward_mask.py": "1" * 64}}
    (folder / provenance.NAME).unlink(missing_ok=True)
    used = {
        "run": name,
        "seed": seed,
        "settings": run.model_dump(mode="json", by_alias=True),
        "model": config.models[run.model].model_dump(mode="json"),
        "task": config.tasks[run.task].model_dump(mode="json"),
    }
    provenance.begin_attempt(folder, used, made_from | code, execution(config, name), 0)
    provenance.end_attempt(folder, "finished")


def _model(folder: Path, parameters: int) -> None:
    folder.mkdir(exist_ok=True)
    save_file({"w": np.zeros(parameters, np.float32)}, folder / "model.safetensors")
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    write_json(folder / "config.json", shape)


def _critic(
    results: Path,
    name: str,
    seed: int,
    samples: pd.DataFrame,
    config: Config,
    draw: np.random.Generator,
) -> list[dict[str, Any]]:
    """A critic that knows something, judged on held-out responses and on an invented truth."""
    sampled = samples[samples["mode"] == "sampled"].reset_index(drop=True)
    constant = config.runs[name].critic.constant
    values = []
    for right, tokens in zip(sampled["correct"], sampled["tokens"], strict=True):
        way = np.linspace(0.1, 0.8, len(tokens))
        noise = draw.normal(0, 0.15, len(tokens))
        known = np.clip(0.5 + (0.5 if right else -0.5) * way + noise, 0, 1)
        values.append(known if constant is None else np.full(len(tokens), constant))
    folder = results / "eval/critics" / name / f"seed{seed}"
    summary = {"name": name, "seed": seed, "critic": "critic", "gamma": 1.0}
    summary |= critics.critic_figures(sampled, values, 1.0, config.evaluate)
    write_json(folder / "summary.json", summary)
    shown = shown_responses(sampled, values, Letters(), 1.0, 1.0)
    shown.to_parquet(folder / "responses.parquet")
    return _judged(results, name, seed, sampled, values, config, draw)


def _judged(
    results: Path,
    name: str,
    seed: int,
    sampled: pd.DataFrame,
    values: list[np.ndarray],
    config: Config,
    draw: np.random.Generator,
) -> list[dict[str, Any]]:
    states, scores, known, found = [], [], {}, []
    for row in sampled[sampled["sample_index"] == 0].index:
        response = sampled.loc[row]
        for position in (0.0, 0.5, 1.0):
            token = round(position * (len(response["tokens"]) - 1))
            truth = float(np.clip(values[row].mean() + draw.normal(0, 0.1), 0.02, 0.98))
            state = len(states)
            states.append((state, response["prompt_index"], 0, position))
            scores += [(state, float(draw.random() < truth), True, 5) for _ in range(32)]
            found.append(values[row][token])
            known[int(response["prompt_index"]), 0, token] = (truth, 0.08)
    frame = pd.DataFrame(states, columns=["state", "prompt_index", "sample_index", "position"])
    continuations = pd.DataFrame(scores, columns=["state", "score", "correct", "length"])
    table = truth_table.with_truth(frame, continuations, 1.0)
    run = config.runs[name]
    actor = {"actor": name, "actor_seed": seed, "actor_step": run.train.steps, "task": run.task}
    first = sampled[sampled["sample_index"] == 0]
    shown = shown_responses(
        first.reset_index(drop=True),
        [values[row] for row in first.index],
        Letters(),
        1.0,
        1.0,
        known,
    )
    folder = results / "judged" / name / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    shown.assign(**actor).to_parquet(folder / "responses.parquet")
    critic = {"critic": name, "kind": "run", "critic_seed": seed, "critic_step": run.train.steps}
    identity = actor | {"gamma": 1.0}
    pieces, worth = _pieces(table, draw)
    behind = pieces, worth + draw.normal(0, 0.1, len(worth))
    tokens = _audited(first.head(8), draw)
    said = np.concatenate([values[row] for row in first.index[:8]])
    gradients = draw.normal(size=(len(said), 8))
    further = value_rows.Further(pieces, tokens, gradients @ gradients.T)
    judged = (critic, identity, table, np.array(found), continuations, behind, (tokens, said))
    rows = value_rows.critic_rows(*judged, further.products)
    return rows + value_rows.reference_rows(identity, table, continuations, further=further)


def _audited(responses: pd.DataFrame, draw: np.random.Generator) -> Audited:
    """Every token of some responses with continuations, on the way to what the response got."""
    tokens = tokens_of(responses, len(responses), 1000)
    way = tokens["token"] / tokens.groupby("trajectory")["token"].transform("size")
    worth = 0.5 + (tokens["score"] - 0.5) * way
    scores = draw.random((len(tokens), 32)) < worth.to_numpy()[:, None]
    state = np.repeat(tokens["state"].to_numpy(), 32)
    continuations = pd.DataFrame({"state": state, "score": scores.ravel(), "length": 5})
    return tokens, continuations.astype({"score": float})


def _pieces(states: pd.DataFrame, draw: np.random.Generator) -> tuple[Pieces, np.ndarray]:
    """Two next pieces of every state with their continuations, and what they are worth."""
    worth = np.clip(np.repeat(states["v_mc"], 2) + draw.normal(0, 0.2, 2 * len(states)), 0, 1)
    pieces = states.loc[worth.index, ["state", "prompt_index"]].rename(columns={"state": "parent"})
    pieces = pieces.assign(state=range(len(pieces)), length=1)
    scores = draw.random((len(pieces), 32)) < worth.to_numpy()[:, None]
    state = np.repeat(pieces["state"].to_numpy(), 32)
    continuations = pd.DataFrame({"state": state, "score": scores.ravel(), "length": 5})
    return (pieces, continuations.astype({"score": float})), worth.to_numpy()


def _probe(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    right = draw.random((32, 16)) < draw.random((32, 1))
    samples = {
        "prompt_index": np.repeat(np.arange(32), 16),
        "score": np.where(right, 1.0, 0.1).ravel(),
        "correct": right.ravel(),
        "n_tokens": draw.integers(9, 24, 512),
    }
    pd.DataFrame(samples).to_parquet(folder / "samples.parquet")
    (folder / "summary.json").write_text(json.dumps(PROBE), encoding="utf-8")
