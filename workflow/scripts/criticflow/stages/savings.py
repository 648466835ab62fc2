"""What runs save that reuse a saved critic, and what that critic cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.config import Config
from criticflow.config.contrasts import actor_updates, differs_in
from criticflow.files import write_json
from criticflow.models.size import model_size
from criticflow.stages.training_costs import cumulative
from criticflow.stats import savings

OPTIMIZER_BYTES = 8
"""Of a parameter: AdamW's two moments in float32."""
SPENT = ("steps", "tokens", "seconds", "flops")
"""Units that a training uses up; the others (memory) it only holds while it lasts."""

Files = Mapping[str, Mapping[int, Path]]


def write_savings(
    config: Config, metrics: Files, actors: Files, critics: Files, out: Path
) -> list[dict[str, Any]]:
    """Write ``savings.json``: a row per run that reuses another run's critic.

    ``arm`` (that run), ``against`` (the run that trains its own critic, with equal settings
    otherwise), ``charged`` (the run that trained the critic) and ``ledger``, rows of
    :func:`criticflow.stats.savings.ledger`: steps, tokens (prompts and responses), seconds, FLOPs,
    ``memory_bytes`` (peak of a training worker) and ``optimizer_bytes`` of the critic.

    Args:
        metrics: ``metrics.parquet`` by run and seed.
        actors, critics: models' directories by run and seed, or the files that say how large
            imported ones are.
    """
    rows = []
    for name, run in config.runs.items():
        origin = run.critic.from_run
        against = origin and own_critic(config, name)
        if not origin or not against:
            continue
        own, reused, charged = (
            _costs(config, each, metrics[each], actors.get(each, {}), critics.get(each, {}))
            for each in (against, name, origin)
        )
        charge = {
            unit: sum(by_seed.values()) / len(by_seed)
            for unit, by_seed in charged.items()
            if unit in SPENT
        }
        ledger = savings.ledger(own, reused, charge)
        rows.append({"arm": name, "against": against, "charged": origin, "ledger": ledger})
    write_json(out, rows)
    return rows


def own_critic(config: Config, name: str) -> str | None:
    """The run that trains its own critic and otherwise equals ``name``; None: there is none.

    Where no run differs in its critic alone, it is the run that the critic comes from, if its actor
    is updated as often: what a step costs does not depend on the mask.
    """
    run = config.runs[name]
    for other_name, other in config.runs.items():
        critic = other.critic
        fresh = not (critic.from_run or critic.pretrained or critic.path or critic.freeze)
        if other.algorithm != "ppo" or not fresh or other.task != run.task:
            continue
        if set(differs_in(run, other)) <= {"critic source", "freeze"}:
            return other_name
    origin = config.runs[run.critic.from_run or name]
    return run.critic.from_run if actor_updates(origin) == actor_updates(run) else None


def _costs(
    config: Config,
    run: str,
    metrics: Mapping[int, Path],
    actors: Mapping[int, Path],
    critics: Mapping[int, Path],
) -> dict[str, dict[int, float]]:
    """By unit and seed, what one run's trainings cost."""
    learns = config.runs[run].critic_learns
    found: dict[str, dict[int, float]] = {}
    for seed, path in metrics.items():
        table = pd.read_parquet(path)
        models = actors.get(seed), critics.get(seed)
        flops = cumulative(table, config.runs[run], *models)["flops"].iloc[-1]
        table = table[table["step"] > 0]
        costs: dict[str, float] = {"steps": float(len(table))}
        for unit, column, total in (
            ("tokens", "perf/total_num_tokens", pd.Series.sum),
            ("seconds", "timing_s/step", pd.Series.sum),
            ("memory_bytes", "actor/perf/max_memory_allocated_gb", pd.Series.max),
        ):
            if column in table and table[column].notna().any():
                scale = 2**30 if unit == "memory_bytes" else 1
                costs[unit] = float(total(table[column])) * scale
        if not math.isnan(flops):
            costs["flops"] = float(flops)
        if seed in critics:
            size = model_size(critics[seed])["parameters"] if learns else 0
            costs["optimizer_bytes"] = float(OPTIMIZER_BYTES * size)
        for unit, cost in costs.items():
            found.setdefault(unit, {})[seed] = cost
    return found
