"""Responses with their returns, for a critic to be fitted to: of training problems alone.

Some of the problems are held out: their responses judge the fit and are never learned from. The
validation and test splits are not read at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import replacing
from criticflow.logs import progress
from criticflow.models.sampling import Engine
from criticflow.stages.samples import add_scores, read_problems

COLUMNS = ["key", "prompt_tokens", "tokens", "score", "correct"]


@dataclass(frozen=True)
class Sampling:
    """What responses a critic is to be fitted to.

    Attributes:
        model_path, model: the actor whose responses they are: directory or hub name, and how it is
            loaded.
        train_parquet, task: the problems, as prepared, and their task.
        critic: how many problems, and how many responses to each.
        seed: of the choice of problems and of the samples.
        probe_samples: what the probe sampled from the same actor at the same temperature, at least
            ``critic.samples`` a problem: those are taken as they are.
    """

    model_path: Path | str
    model: config.Model
    train_parquet: Path | str
    task: config.Task
    critic: config.PretrainedCritic
    seed: int
    resources: config.Resources
    probe_samples: Path | None = None


def sample_returns(job: Sampling, out: Path) -> pd.DataFrame:
    """Sample ``critic.samples`` responses to training problems and write them to ``out``.

    Returns:
        ``key`` of the problem, ``prompt_tokens``, ``tokens``, ``score``, ``correct`` and
        ``held_out``.

    Raises:
        UserError: the model or the data is missing or broken, or too few problems are left.
    """
    task, critic = job.task, job.critic
    problems = read_problems(job.train_parquet)
    limit = task.max_response_length
    with Engine(job.model_path, job.model, task.max_prompt_length + limit, job.resources) as engine:
        problems, _ = engine.fitting(problems, task.max_prompt_length, job.train_parquet)
        chosen = choose(problems, critic, job.seed)
        there = probed(job.probe_samples, critic.samples, set(chosen["key"]))
        missing = chosen[~chosen["key"].isin(there["key"])].reset_index(drop=True)
        parts = [there]
        if len(missing):
            prompts = list(missing["prompt"])
            sampled = engine.generate(prompts, critic.samples, critic.temperature, limit, job.seed)
            parts.append(add_scores(sampled, missing)[COLUMNS])
    found = pd.concat([part for part in parts if len(part)], ignore_index=True)
    held_out = set(chosen["key"][chosen["held_out"]])
    found["held_out"] = found["key"].isin(held_out)
    with replacing(out) as partial:
        found.to_parquet(partial, index=False)
    progress(
        f"{len(found)} responses to {len(chosen)} training problems ({len(held_out)} held out, "
        f"{len(there)} responses from the probe), mean score {found['score'].mean():.3f}"
    )
    return found


def choose(problems: pd.DataFrame, critic: config.PretrainedCritic, seed: int) -> pd.DataFrame:
    """Problems to sample, with ``held_out``.

    Raises:
        UserError: not at least one problem on either side.
    """
    order = np.random.default_rng(seed).permutation(len(problems))[: critic.problems]
    count = round(critic.held_out * len(order))
    if not 0 < count < len(order):
        raise UserError(
            f"critics: of {len(order)} training problems {count} would be held out: give more "
            "problems, or another held_out"
        )
    chosen = problems.iloc[np.sort(order)].reset_index(drop=True)
    return chosen.assign(held_out=chosen.index.isin(_spread(len(chosen), count, seed)))


def _spread(rows: int, count: int, seed: int) -> Sequence[int]:
    return np.random.default_rng([seed, 1]).permutation(rows)[:count]


def probed(parquet: Path | None, samples: int, keys: set[str]) -> pd.DataFrame:
    """What the probe has sampled of these problems, the first ``samples`` responses of each."""
    if parquet is None:
        return pd.DataFrame(columns=COLUMNS)
    frame = pd.read_parquet(parquet, columns=["prompt_index", "sample_index", *COLUMNS])
    frame = frame[frame["key"].isin(keys)].sort_values(["prompt_index", "sample_index"])
    counts = frame.groupby("key")["sample_index"].transform("size")
    frame = frame[counts >= samples]
    return frame.groupby("key").head(samples)[COLUMNS].reset_index(drop=True)
