"""How good a saved critic is, on rollouts of the actor that was trained with it.

The rollouts are the sampled responses of the actor's evaluation: held-out problems, and scores that
no reward mask has touched. A frozen critic has the weights of the critic it came from, but another
actor; its figures say whether its values hold for the responses of that one too.

Needs the critic's HuggingFace directory and transformers, not verl.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import replacing, write_json
from criticflow.logs import progress
from criticflow.models.directory import check_model_directory
from criticflow.models.saved_critic import SavedCritic
from criticflow.models.token_values import own_tokens, token_values
from criticflow.report.plots import plot_critic
from criticflow.stages.shown_responses import shown_responses
from criticflow.stats import calibration

POSITIONS = 10
"""States are looked at in this many steps from the prompt (0) to the last action (1)."""


def evaluate_critic(
    critic: SavedCritic,
    samples_parquet: Path | str,
    evaluate: config.Evaluate,
    device: str,
    out_dir: Path | str,
    name: str,
    seed: int,
) -> dict[str, Any]:
    """Write ``summary.json``, ``responses.parquet`` and ``critic.png`` to ``out_dir``.

    ``responses.parquet`` has some responses token by token, for a person to look at
    (:mod:`criticflow.stages.shown_responses`).

    Args:
        critic: a converted critic, with gamma and lambda of its run: it is judged by the returns
            that it was trained on.
        samples_parquet: of the evaluation of the run's actor; its sampled responses count.
        name, seed: the run.

    Returns:
        ``tokens``: figures of all states together, and ``positions``: of one state per response,
        from the last prompt token (``position`` 0) to where the last token is chosen (1), see
        :func:`criticflow.stats.calibration.state_figures`; ``prompt_value``: correlation of
        V(prompt) with the prompt's pass rate; ``reliability``: diagrams of all states, of
        position 0 and of position 1; ``outside``: share of values under 0 or over 1, which no
        return can have.

    Raises:
        UserError: the critic or the samples are missing or broken, or do not fit together.
    """
    samples = _sampled(samples_parquet)
    found = check_model_directory(critic.path)
    largest_id = max(max(map(max, samples[column])) for column in ("prompt_tokens", "tokens"))
    if found is not None and largest_id >= found.get("vocab_size", largest_id + 1):
        raise UserError(
            f"{critic.path} has {found['vocab_size']} tokens in its vocabulary, but "
            f"{samples_parquet} uses token {largest_id}: actor and critic must share a tokenizer"
        )
    loaded = critic.load(device)
    values = token_values(loaded, list(samples["prompt_tokens"]), list(samples["tokens"]))
    samples, values = own_tokens(samples, values)
    summary = {"name": name, "seed": seed, "critic": str(critic.path), "gamma": critic.gamma}
    summary |= critic_figures(samples, values, critic.gamma, evaluate)
    out = Path(out_dir)
    prompts = _prompts(samples, values)
    plot_critic(summary, prompts, f"{name}, seed {seed}", out / "critic.png")
    with replacing(out / "responses.parquet") as partial:
        shown = shown_responses(samples, values, critic.tokenizer(), critic.gamma, critic.lam)
        shown.to_parquet(partial, index=False)
    write_json(out / "summary.json", summary)
    progress(
        f"critic of {name}: explained variance {_shown(summary['tokens']['explained_variance'])}, "
        f"AUC {_shown(summary['positions'][0]['auc'])} at the prompt, "
        f"{_shown(summary['positions'][-1]['auc'])} at the end"
    )
    return summary


def critic_figures(
    samples: pd.DataFrame,
    values: Sequence[NDArray[np.float64]],
    gamma: float,
    evaluate: config.Evaluate,
) -> dict[str, Any]:
    """All figures of one critic; ``samples`` has a row per entry of ``values``."""
    states = states_of(samples, values, gamma)
    by_prompt = _prompts(samples, values)
    count = len(by_prompt)
    options = (count, evaluate.seed, evaluate.resamples, evaluate.confidence)
    at = {step: _at(states, step / POSITIONS) for step in range(POSITIONS + 1)}
    correlation = calibration.correlation(
        by_prompt["value"].to_numpy(), by_prompt["pass_rate"].to_numpy()
    )
    return {
        "n_prompts": count,
        "n_samples": len(samples),
        "confidence": evaluate.confidence,
        "outside": float(((states["value"] < 0) | (states["value"] > 1)).mean()),
        "tokens": calibration.state_figures(states, *options),
        "positions": [
            {"position": step / POSITIONS, **calibration.state_figures(part, *options)}
            for step, part in at.items()
        ],
        "prompt_value": {"correlation": calibration.estimate(correlation, *options)},
        "reliability": {
            "tokens": calibration.reliability(states),
            "prompt": calibration.reliability(at[0]),
            "last": calibration.reliability(at[POSITIONS]),
        },
    }


def states_of(
    samples: pd.DataFrame, values: Sequence[NDArray[np.float64]], gamma: float
) -> pd.DataFrame:
    """One row per state, by sample and token.

    ``prompt`` (number of the prompt, from 0), ``sample``, ``token``, ``tokens`` (of the response),
    ``value``, ``return`` (``gamma`` to the number of tokens that are still to come after this one,
    times the final score) and ``correct``.
    """
    lengths = np.array([len(row) for row in values])
    numbers, _ = pd.factorize(samples["prompt_index"], sort=True)
    token = np.concatenate([np.arange(length) for length in lengths])
    tokens = np.repeat(lengths, lengths)
    score = np.repeat(samples["score"].to_numpy(np.float64), lengths)
    return pd.DataFrame(
        {
            "prompt": np.repeat(numbers, lengths),
            "sample": np.repeat(np.arange(len(samples)), lengths),
            "token": token,
            "tokens": tokens,
            "value": np.concatenate(values),
            "return": score * gamma ** (tokens - 1 - token),
            "correct": np.repeat(samples["correct"].to_numpy(bool), lengths),
        }
    )


def _at(states: pd.DataFrame, position: float) -> pd.DataFrame:
    """The state of each response at a share of its way."""
    return states[states["token"] == np.rint(position * (states["tokens"] - 1))]


def _prompts(samples: pd.DataFrame, values: Sequence[NDArray[np.float64]]) -> pd.DataFrame:
    """Per prompt: ``value`` V(prompt), the same for all its samples, and ``pass_rate``."""
    frame = samples[["prompt_index", "correct"]].assign(value=[row[0] for row in values])
    return frame.groupby("prompt_index").agg(value=("value", "mean"), pass_rate=("correct", "mean"))


def _sampled(parquet: Path | str) -> pd.DataFrame:
    columns = ["mode", "prompt_index", "sample_index", "prompt_tokens", "tokens"]
    columns += ["score", "correct"]
    try:
        there = pq.read_schema(parquet).names
        columns += [name for name in ("written",) if name in there]
        frame = pd.read_parquet(parquet, columns=columns)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{parquet} holds no samples of an evaluation ({error}): evaluate the actor again"
        ) from error
    sampled = frame[frame["mode"] == "sampled"].reset_index(drop=True)
    if sampled.empty:
        raise UserError(f"{parquet} holds no sampled response: evaluate the actor again")
    return sampled


def _shown(figure: dict[str, Any] | None) -> str:
    return "n/a" if figure is None else f"{figure['value']:.3f}"
