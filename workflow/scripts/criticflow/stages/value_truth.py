"""The truth about values: the score that an actor gets from given states, by Monte Carlo.

V^pi(s) is the expected task score (partial credit included, before any KL or mask) when the actor
goes on from state s, a prompt and the first part of a response, at the temperature of its rollouts.
With a discount the score is multiplied by gamma for every token that follows the next one:

    v_mc(s) = mean of gamma^(T - 1) x score over n continuations of T tokens each
    v_se(s) = sqrt(unbiased sample variance / n), the standard error of v_mc

In a dialogue with a search engine the actor goes on with its searches, and T counts what it writes.

States come from one response per problem, which is sampled separately from all continuations, so
that an estimate does not contain the sample that its state was chosen from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from criticflow import config
from criticflow.logs import progress
from criticflow.models.dialogues import SearchEngine, State, continue_dialogues, respond, tools
from criticflow.models.line_ends import line_ends, line_states, turn_starts
from criticflow.models.sampling import Engine
from criticflow.stages.audited_tokens import tokens_of
from criticflow.stages.next_pieces import sample_pieces
from criticflow.stages.samples import add_scores, read_problems
from criticflow.stages.truth_files import vocabulary_hash, write_truth
from criticflow.stats import truth_table
from criticflow.tasks import get_task

BLOCK = 16
"""Tokens of a block of the engine's cache: short, so that the many continuations of a state, and
the states of a response, share what they have in common."""


@dataclass(frozen=True)
class Measurement:
    """How the truth about one actor is measured.

    Attributes:
        model_path: the actor's directory or hub name.
        model: its precision, and whether its own code may run.
        test_parquet: problems, as prepared; the first ``truth.problems`` that fit are used, the
            same for every actor.
        max_prompt_length: tokens; longer prompts are left out.
        max_response_length: tokens of prefix and continuation together.
        temperature: of the actor's rollouts.
        gamma: discount per token.
        search: of a task with search.
    """

    model_path: Path | str
    model: config.Model
    test_parquet: Path | str
    max_prompt_length: int
    max_response_length: int
    truth: config.Truth
    temperature: float
    gamma: float
    resources: config.Resources
    search: SearchEngine | None = None


def measure_truth(job: Measurement, actor: dict[str, Any], out_dir: Path) -> pd.DataFrame:
    """Write states, continuations, responses (parquet) and ``summary.json`` to ``out_dir``; where
    the settings ask for next pieces, or for audited tokens, these and their continuations too.

    Args:
        actor: ``actor``, ``actor_seed``, ``actor_step`` and ``task``, for the summary.

    Returns:
        The states, with ``n``, ``v_mc`` and ``v_se``.

    Raises:
        UserError: the model or the data is missing or broken.
    """
    started = time.monotonic()
    longest = job.max_prompt_length + job.max_response_length
    with Engine(
        job.model_path, job.model, longest, job.resources, BLOCK, tools(job.search)
    ) as engine:
        loaded = time.monotonic()
        sampled = sample_states(engine, job)
        vocabulary = vocabulary_hash(engine.tokenizer)
    states = truth_table.with_truth(sampled.states, sampled.continuations, job.gamma)
    further = [found[1] for found in (sampled.pieces, sampled.tokens) if found]
    summary = {
        **actor,
        "temperature": job.temperature,
        "gamma": job.gamma,
        "problems": len(sampled.responses),
        "positions": job.truth.positions,
        "continuations": job.truth.continuations,
        "pieces": job.truth.pieces,
        "audited": job.truth.audited,
        "max_response_length": job.max_response_length,
        "seed": job.truth.seed,
        "model": str(job.model_path),
        "vocabulary": vocabulary,
        "states": len(states),
        "tokens": sum(int(table["length"].sum()) for table in [sampled.continuations, *further]),
    }
    write_truth(
        out_dir,
        states,
        sampled.continuations,
        summary,
        sampled.responses,
        sampled.pieces,
        sampled.tokens,
    )
    progress(
        f"truth of {actor['actor']}: {len(states)} states, mean value {states['v_mc'].mean():.3f}, "
        f"standard error {states['v_se'].mean():.3f}; {summary['tokens']} tokens in "
        f"{time.monotonic() - started:.0f} s, {loaded - started:.0f} s of them to start the engine"
    )
    return states


class Sampled(NamedTuple):
    """What was sampled for a truth.

    Attributes:
        responses: one to each problem.
        states: of these responses.
        continuations: of the states, scored.
        pieces: next pieces of the states (:mod:`criticflow.stages.next_pieces`) and the scored
            continuations from behind them; None: none were asked for.
        tokens: states before each token of some responses
            (:mod:`criticflow.stages.audited_tokens`) with theirs; None: none were asked for.
    """

    responses: pd.DataFrame
    states: pd.DataFrame
    continuations: pd.DataFrame
    pieces: tuple[pd.DataFrame, pd.DataFrame] | None
    tokens: tuple[pd.DataFrame, pd.DataFrame] | None


def sample_states(engine: Engine, job: Measurement) -> Sampled:
    """One response to each problem, its states, and the scored continuations of each state.

    ``prompt_index`` is the row of the problem in ``test_parquet``.
    """
    truth, limit = job.truth, job.max_response_length
    problems = read_problems(job.test_parquet)
    problems["row"] = np.arange(len(problems))
    problems, _ = engine.fitting(problems, job.max_prompt_length, job.test_parquet)
    problems = problems.head(truth.problems).reset_index(drop=True)
    rows = problems["row"].to_numpy()
    prompts = list(problems["prompt"])
    sampled = respond(engine, job.search, prompts, 1, job.temperature, limit, truth.seed)
    responses = add_scores(sampled, problems)
    responses["prompt_index"] = rows[responses["prompt_index"]]
    ends = line_ends(engine.tokenizer, responses["tokens"])
    states = states_of(responses, truth.positions, truth.lines_above, ends)
    problems = problems.set_index("row")
    scores = continued(engine, job, states, responses, problems)
    pieces = tokens = None
    longest = truth.lines_above or limit
    if truth.pieces:
        of_problem = responses.set_index("prompt_index")["n_tokens"]
        long = of_problem.loc[states["prompt_index"]] > longest
        # The seed after that of the continuations, or pieces would be their first tokens.
        how = (truth.pieces, job.temperature, limit, truth.seed + 1)
        pieces = sample_pieces(engine, states, list(long), *how)
    if truth.audited:
        tokens = tokens_of(responses, truth.audited, longest)
    followed = [
        None if found is None else (found, continued(engine, job, found, responses, problems))
        for found in (pieces, tokens)
    ]
    return Sampled(responses, states, scores, *followed)


def continued(
    engine: Engine,
    job: Measurement,
    states: pd.DataFrame,
    responses: pd.DataFrame,
    problems: pd.DataFrame,
) -> pd.DataFrame:
    """``state``, ``score``, ``correct`` and ``length`` of the continuations of each state.

    Args:
        states: ``state``, ``prompt_index``, ``prefix_tokens`` and ``prefix_length``.
        problems: by ``prompt_index``.
    """
    continuations = _continued(engine, job, states, responses)
    texts = _texts(engine, states, continuations)
    return _scored(states, continuations, texts, problems)


Continuation = tuple[list[int], int]
"""Ids that follow a state, and how many of them the actor wrote: all, but in dialogues."""


def _continued(
    engine: Engine, job: Measurement, states: pd.DataFrame, responses: pd.DataFrame
) -> list[list[Continuation]]:
    """``truth.continuations`` of each state."""
    options = (job.truth.continuations, job.temperature)
    if job.search is None:
        room = list(job.max_response_length - states["prefix_length"])
        found = engine.continue_from(list(states["prefix_tokens"]), *options, room, job.truth.seed)
        return [[(ids, len(ids)) for ids in samples] for samples in found]
    written = responses.set_index(["prompt_index", "sample_index"])["written"]
    begun = []
    for state in states.itertuples():
        length, ids = state.prefix_length, list(state.prefix_tokens)
        split = len(ids) - length
        own = list(written[state.prompt_index, state.sample_index])[:length]
        begun.append(State(ids[:split], ids[split:], own))
    dialogues = continue_dialogues(engine, job.search, begun, *options, job.truth.seed)
    return [
        [(one.tokens[length:], sum(one.written[length:])) for one in each]
        for length, each in zip(states["prefix_length"], dialogues, strict=True)
    ]


def states_of(
    responses: pd.DataFrame,
    positions: Sequence[float],
    lines_above: int | None = None,
    ends: Sequence[Sequence[int]] = (),
) -> pd.DataFrame:
    """States of each response at shares of its way, each state once.

    A response of T tokens passes through T states, from the prompt (position 0) to where its last
    token is still to be chosen (position 1); position p is the state after round(p (T - 1)) tokens.
    Where two positions are one state, it counts for the first of them. A dialogue with a search
    engine has its states where its turns begin, and where its last token is still to be chosen.

    Args:
        responses: ``prompt_index``, ``sample_index``, ``prompt_tokens``, ``tokens``, and of
            dialogues ``written``.
        positions: shares, from 0 to 1.
        lines_above: a response of more tokens than this has its states at line ends, except the
            first and the last; None: none has.
        ends: by response, after how many tokens a line has ended.

    Returns:
        ``state`` (number, from 0), ``prompt_index``, ``sample_index``, ``position``,
        ``prefix_tokens`` (of prompt and prefix) and ``prefix_length`` (tokens of the response).
    """
    rows = []
    for number, response in enumerate(responses.itertuples()):
        tokens = list(response.tokens)
        last = len(tokens) - 1
        steps: list[int] = []
        if "written" in responses:
            steps = line_states(len(tokens), turn_starts(response.written))
        elif lines_above is not None and len(tokens) > lines_above:
            steps = line_states(len(tokens), ends[number])
        taken: set[int] = set()
        for position in positions:
            length = round(position * last)
            if steps:
                length = min(steps, key=lambda step, wanted=length: (abs(step - wanted), step))
            if length in taken:
                continue
            taken.add(length)
            prefix = [*map(int, response.prompt_tokens), *map(int, tokens[:length])]
            rows.append(
                (response.prompt_index, response.sample_index, float(position), prefix, length)
            )
    columns = ["prompt_index", "sample_index", "position", "prefix_tokens", "prefix_length"]
    states = pd.DataFrame(rows, columns=columns)
    states.insert(0, "state", np.arange(len(states)))
    return states


def _texts(
    engine: Engine, states: pd.DataFrame, continuations: list[list[Continuation]]
) -> list[list[str]]:
    """Whole responses as the task reads them: prefix and continuation decoded together."""
    prefixes = [
        ids[len(ids) - length :] if length else []
        for ids, length in zip(states["prefix_tokens"], states["prefix_length"], strict=True)
    ]
    decode = engine.tokenizer.batch_decode
    return [
        decode([[*prefix, *ids] for ids, _ in samples], skip_special_tokens=True)
        for prefix, samples in zip(prefixes, continuations, strict=True)
    ]


def _scored(
    states: pd.DataFrame,
    continuations: list[list[Continuation]],
    texts: list[list[str]],
    problems: pd.DataFrame,
) -> pd.DataFrame:
    """``state``, ``score``, ``correct`` and ``length`` of every continuation.

    A text that came before for the same problem is not scored again.
    """
    known: dict[tuple[int, str], Any] = {}
    rows = []
    for state, row, samples, written in zip(
        states["state"], states["prompt_index"], continuations, texts, strict=True
    ):
        problem = problems.loc[row]
        task = get_task(problem["data_source"])
        for (_, length), text in zip(samples, written, strict=True):
            if (row, text) not in known:
                known[row, text] = task.score(text, problem["ground_truth"])
            score = known[row, text]
            rows.append((state, score.score, score.correct, length))
    return pd.DataFrame(rows, columns=["state", "score", "correct", "length"])
