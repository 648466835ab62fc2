"""The base model at the temperature that gives it the entropy of a trained actor.

PPO lowers entropy and with that raises pass@1 of samples, as a lower temperature does, which costs
nothing. What an actor does better than the base model with as much entropy is what it has learned.
Entropy is that of the sampling distribution (:func:`criticflow.stats.outcomes.entropy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json
from criticflow.logs import progress
from criticflow.stages.evaluate import Evaluation, asking
from criticflow.stages.seed_scores import seed_scores
from criticflow.stats import crossed, outcomes
from criticflow.stats.intervals import Figure, figure

SAMPLED, GREEDY = "pass@1", "greedy.pass@1"


def write_entropy_curve(job: Evaluation, tempered: config.Tempered, out: Path) -> pd.DataFrame:
    """Sample a base model at each temperature, and write its entropies.

    Args:
        job: of the base model, on the problems that temperatures are chosen on; it gets one
            response to each.

    Returns:
        ``temperature`` and ``entropy`` (nats a token).
    """
    with asking(job) as (ask, *_):
        samples = [ask(1, temperature, tempered.seed) for temperature in tempered.temperatures]
    entropies = [
        outcomes.entropy(list(one["logprobs"]), list(one["prompt_index"])).value for one in samples
    ]
    curve = pd.DataFrame({"temperature": tempered.temperatures, "entropy": entropies})
    with replacing(out) as partial:
        curve.to_parquet(partial, index=False)
    return curve


def temperature_for(entropy: float, curve: pd.DataFrame) -> float:
    """Where the base model has this entropy; the nearest that was tried where none has it.

    Between temperatures entropy is interpolated linearly. It rises with the temperature but for the
    noise of sampling, which is taken out by the running maximum.
    """
    rising = np.maximum.accumulate(curve["entropy"].to_numpy())
    return float(np.interp(entropy, rising, curve["temperature"].to_numpy()))


def settings_for(evaluate: config.Evaluate, actor: Path, curve: Path) -> config.Evaluate:
    """Settings of the base model's evaluation beside an actor.

    Args:
        actor: ``summary.json`` of the actor's evaluation.
        curve: what :func:`write_entropy_curve` wrote.
    """
    entropy = read_json(actor)["avg_entropy"]
    temperature = temperature_for(entropy, pd.read_parquet(curve))
    progress(f"an entropy of {entropy:.4f} nats a token: temperature {temperature:.4f}")
    return evaluate.model_copy(update={"temperature": temperature})


def write_comparison(
    tempered: Mapping[str, Mapping[int, Path]],
    actors: Mapping[str, Mapping[int, Path]],
    bases: Mapping[str, Path],
    evaluate: config.Evaluate,
    out: Path,
) -> list[dict[str, Any]]:
    """Write ``tempered.json``: a row per arm with what it is better at than the base model.

    ``arm``, ``seeds``, ``temperature`` and ``entropy`` (means over seeds, of the base model),
    ``actor_entropy``, ``base`` (pass@1 of the base model at that temperature), and two differences
    ``{value, low, high}``: ``sampled``, the arm's pass@1 less that, and ``greedy``, the pass@1 of
    greedy answers of the arm and the base model. Intervals are over seeds and problems
    (:mod:`criticflow.stats.crossed`), with a single seed over problems alone (bootstrap).

    Args:
        tempered, actors: folders of the evaluations, by arm and seed.
        bases: folder of the base model's own evaluation, by arm.

    Raises:
        UserError: an arm and its base model were evaluated on different problems.
    """
    rows = []
    for arm, folders in tempered.items():
        mine = {seed: actors[arm][seed] for seed in folders}
        summaries = [read_json(folder / "summary.json") for folder in folders.values()]
        own = [read_json(folder / "summary.json") for folder in mine.values()]
        same_base = dict.fromkeys(folders, bases[arm])
        rows.append(
            {
                "arm": arm,
                "seeds": sorted(folders),
                "temperature": _mean(summaries, "temperature"),
                "entropy": _mean(summaries, "avg_entropy"),
                "actor_entropy": _mean(own, "avg_entropy"),
                "base": _mean(summaries, "pass@1"),
                "sampled": _difference(arm, mine, folders, SAMPLED, evaluate),
                "greedy": _difference(arm, mine, same_base, GREEDY, evaluate),
            }
        )
    write_json(out, rows)
    return rows


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def _difference(
    arm: str,
    trained: Mapping[int, Path],
    base: Mapping[int, Path],
    metric: str,
    evaluate: config.Evaluate,
) -> Figure:
    scores = [
        seed_scores({seed: folder / "samples.parquet" for seed, folder in one.items()}, metric)
        for one in (trained, base)
    ]
    try:
        cells, seeds = crossed.paired(*scores, metric)
    except ValueError as error:
        raise UserError(f"{arm} and its base model: {error}: evaluate them again") from error
    if len(seeds) > 1:
        return crossed.mean(cells).figure(evaluate.confidence)
    found = outcomes.bootstrap_mean(
        cells[0], evaluate.seed, evaluate.resamples, evaluate.confidence
    )
    return figure(found.value, found.low, found.high)
