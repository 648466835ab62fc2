"""The truth of a new actor about states of an old one.

The states are those of the old actor's truth (:mod:`criticflow.stages.value_truth`), token by
token; they are continued and scored as there. Seeds depend on the states alone, so both actors go
on with the same ones: an actor that has not changed gets the same continuations.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.errors import UserError
from criticflow.logs import progress
from criticflow.models.dialogues import tools
from criticflow.models.sampling import Engine
from criticflow.stages.samples import read_problems
from criticflow.stages.truth_files import (
    read_responses,
    read_truth,
    vocabulary_hash,
    write_truth,
)
from criticflow.stages.value_truth import BLOCK, Measurement, continued
from criticflow.stats import truth_table


def measure_on_states(
    job: Measurement, old: Path, actor: dict[str, Any], out_dir: Path
) -> pd.DataFrame:
    """Write states, continuations (parquet) and ``summary.json`` to ``out_dir``.

    Args:
        job: of the new actor; of its ``truth`` the continuations and the seed count.
        old: folder of the old actor's truth, on problems of the same split.
        actor: ``actor``, ``actor_seed``, ``actor_step`` and ``task`` of the new actor.

    Returns:
        The old actor's states, in their order, with ``n``, ``v_mc`` and ``v_se`` of the new one.

    Raises:
        UserError: the model, the data or the old truth is missing or broken, or the two actors
            have different tokenizers.
    """
    started = time.monotonic()
    states, responses, measured = read_states(old)
    problems = read_problems(job.test_parquet)
    longest = job.max_prompt_length + job.max_response_length
    with Engine(
        job.model_path, job.model, longest, job.resources, BLOCK, tools(job.search)
    ) as engine:
        vocabulary = vocabulary_hash(engine.tokenizer)
        if measured["vocabulary"] != vocabulary:
            raise UserError(
                f"{job.model_path} has another tokenizer than the actor of {old}: it can only "
                "continue states whose tokens it knows"
            )
        continuations = continued(engine, job, states, responses, problems)
    states = truth_table.with_truth(states, continuations, job.gamma)
    summary = {
        **actor,
        "states_of": {key: measured[key] for key in actor},
        "temperature": job.temperature,
        "gamma": job.gamma,
        "continuations": job.truth.continuations,
        "max_response_length": job.max_response_length,
        "seed": job.truth.seed,
        "model": str(job.model_path),
        "vocabulary": vocabulary,
        "states": len(states),
        "tokens": int(continuations["length"].sum()),
    }
    write_truth(out_dir, states, continuations, summary)
    progress(
        f"truth of {actor['actor']} on states of {measured['actor']}, step "
        f"{measured['actor_step']}: {len(states)} states, mean value {states['v_mc'].mean():.3f}; "
        f"{summary['tokens']} tokens in {time.monotonic() - started:.0f} s"
    )
    return states


def read_states(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """A truth's states with ``prefix_length``, its responses, and its summary.

    Raises:
        UserError: something is missing or broken.
    """
    states, _, summary = read_truth(folder)
    responses = read_responses(folder)
    if responses is None:
        raise UserError(f"{folder} has no responses.parquet: measure this truth again")
    # Seeds are made of plain numbers.
    states["prefix_tokens"] = [ids.tolist() for ids in states["prefix_tokens"]]
    names = ["prompt_index", "sample_index"]
    prompts = responses.set_index(names)["prompt_tokens"].map(len)
    before = prompts.loc[pd.MultiIndex.from_frame(states[names])].to_numpy()
    states["prefix_length"] = states["prefix_tokens"].map(len) - before
    return states, responses, summary
