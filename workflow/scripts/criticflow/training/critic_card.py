"""``critic_card.json``: what a saved critic is, beside its weights.

``critic``, ``kind`` (run or pretrained), ``seed``, ``step``, ``task``, ``base_model`` (name, path,
SHA-256 of its weights, licence as its README states it), ``actor`` (whose returns it learned from),
``responses`` and ``tokens`` that it learned from, ``gamma``, ``lam``, ``reward_mask`` and
``figures``: where the study compares it with the truth.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.config import PretrainedCritic, Run
from criticflow.files import sha256, write_json

NAME = "critic_card.json"
TOKENS = "perf/total_num_tokens"
"""verl's metric: tokens of prompts and responses of a step."""


def write_card(critic: Path, card: dict[str, Any]) -> None:
    """Write the card into a critic's HuggingFace directory."""
    write_json(critic / NAME, card)


def run_card(
    settings: Run, run: str, seed: int, step: int, model_path: str, metrics: pd.DataFrame
) -> dict[str, Any]:
    """The card of the critic that a run trained.

    Args:
        settings, run: the run and its name.
        step: the critic's.
        model_path: the base model's directory or hub name.
        metrics: verl's, one row a step (``step``).
    """
    train, critic = settings.train, settings.critic
    learned = 0 if critic.freeze else step
    seen = metrics[metrics["step"] <= learned]
    return {
        "critic": run,
        "kind": "run",
        "seed": seed,
        "step": step,
        "task": settings.task,
        "base_model": base_model(settings.model, model_path),
        "actor": f"{run}/seed{seed}, as it learned",
        "started_from": critic.model_dump(mode="json", by_alias=True),
        "responses": learned * train.batch_size * train.rollout_n,
        "tokens": int(seen[TOKENS].sum()) if TOKENS in seen else None,
        "gamma": train.gamma,
        "lam": train.lam if train.critic_lam is None else train.critic_lam,
        "reward_mask": settings.reward_mask.model_dump(mode="json"),
        "figures": f"results/judged/{run}/seed{seed}/rows.json",
    }


def pretrained_card(
    critic: PretrainedCritic,
    name: str,
    seed: int,
    step: int,
    model_path: str,
    samples: pd.DataFrame,
) -> dict[str, Any]:
    """The card of a critic that was pretrained.

    Args:
        step: of the fit, the best.
        samples: what it was fitted to, with ``tokens`` and ``held_out``.
    """
    lengths = samples.loc[~samples["held_out"], "tokens"].map(len)
    actor = critic.model if critic.actor is None else f"{critic.actor}/seed{seed}"
    return {
        "critic": name,
        "kind": "pretrained",
        "seed": seed,
        "step": step,
        "task": critic.task,
        "base_model": base_model(critic.model, model_path),
        "actor": actor,
        "started_from": None,
        "responses": step * critic.batch_size,
        "tokens": round(step * critic.batch_size * float(lengths.mean())),
        "gamma": critic.gamma,
        "lam": 1.0,
        "reward_mask": None,
        "figures": f"results/judged/{name}/seed{seed}/rows.json",
    }


def base_model(name: str, path: str) -> dict[str, Any]:
    """Name, path, hash of each file of weights, and licence of a base model.

    A model on the hub has no files here: hashes and licence are null.
    """
    folder = Path(path)
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return {
        "name": name,
        "path": path,
        "sha256": {file.name: sha256(file) for file in weights} or None,
        "licence": licence(folder),
    }


def licence(folder: Path) -> str | None:
    """``license`` in the front matter of a model's README; None if it states none."""
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8"), re.DOTALL)
    found = re.search(r"^license:\s*(\S.*)$", front[1], re.MULTILINE) if front else None
    return found[1].strip() if found else None
