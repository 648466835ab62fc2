"""An oracle in the critic's place: values are means of what the actor itself gets from each state.

    V(s_t) = f / K  sum_k gamma^(T_k - 1) R_k,   K continuations of the current actor from s_t,
                                                 of T_k tokens and score R_k, f = ``critic.scale``

This is VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679, section 4): no bias, and an error that
falls with K. Beside a constant critic as the floor it is the ceiling: what a run with it gains over
the constant is what a critic could be worth. The score is the task's, before KL and reward mask
(for an unrescaled mask of ratio m the fitting f is 1 - m).

Every token of a response is a state. In a response of more than ``lines_above`` tokens the states
are its first and last token and those that begin a line, in a dialogue with a search engine its
last token and those that begin a turn; values of the tokens between two states are interpolated.
T_k counts what the actor writes. The continuations come from the rollout engines, before they
sleep, with the temperature of the rollouts and a seed each, a function of (``rollout.seed``,
trajectory, state, number, in dialogues turn). The response that a state comes from is none of them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.workers.rollout.llm_server import LLMServerClient

from criticflow.models.line_ends import line_ends, line_states, turn_starts
from criticflow.verl_plugin.agent_loop import sampling_seed
from criticflow.verl_plugin.dialogues import Dialogues, SearchSettings
from criticflow.verl_plugin.settings import SEARCH_LOOP, OracleSettings


class Trajectory(NamedTuple):
    """A response to continue from its states.

    Attributes:
        key: verl's name for it.
        prompt, response: token ids.
        written: 1 where a token of the response is the actor's own.
        source, ground_truth: what the reward function takes.
    """

    key: str
    prompt: list[int]
    response: list[int]
    written: list[int]
    source: str
    ground_truth: Any


class Oracle:
    """
    Args:
        settings: how often it asks.
        config: verl's whole configuration.
        client: sends requests to the rollout engines.
        tokenizer: the actor's.
    """

    def __init__(
        self,
        settings: OracleSettings,
        config: DictConfig,
        client: LLMServerClient,
        tokenizer: Any,
    ) -> None:
        self.settings = settings
        self.rollout = config.actor_rollout_ref.rollout
        self.client = client
        self.tokenizer = tokenizer
        self.reward = get_custom_reward_fn(config)
        searches = self.rollout.agent.default_agent_loop == SEARCH_LOOP
        self.dialogues = Dialogues(SearchSettings.read(config), tokenizer) if searches else None

    def values(self, batch: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Values of every trajectory of a batch, by key, (response tokens,) each; and metrics."""
        return asyncio.run(self._values(trajectories(batch)))

    async def _values(
        self, batch: Sequence[Trajectory]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        places = self._places(batch)
        numbers = range(self.settings.continuations)
        wanted = [
            (one, place, number)
            for one, its_places in zip(batch, places, strict=True)
            for place in its_places
            for number in numbers
        ]
        found = await asyncio.gather(*(self._continue(*each) for each in wanted))
        returns = await self._returns(wanted, found)
        values, errors, begin = {}, [], 0
        for one, its_places in zip(batch, places, strict=True):
            count = len(its_places) * len(numbers)
            table = returns[begin : begin + count].reshape(len(its_places), len(numbers))
            begin += count
            values[one.key] = self.settings.scale * at_every_token(
                table.mean(axis=1), its_places, one.written
            )
            if len(numbers) > 1:
                errors.append(table.var(axis=1, ddof=1) / len(numbers))
        metrics = {
            "criticflow/oracle/continuations": float(len(wanted)),
            "criticflow/oracle/tokens": float(sum(own for _, own in found)),
        }
        if errors:
            error = float(np.sqrt(np.concatenate(errors).mean()))
            metrics["criticflow/oracle/standard_error"] = error
        return values, metrics

    def _places(self, batch: Sequence[Trajectory]) -> list[list[int]]:
        """After how many tokens of each response a value is estimated."""
        if self.dialogues is not None:
            return [line_states(len(one.response), turn_starts(one.written)) for one in batch]
        ends = line_ends(self.tokenizer, [one.response for one in batch])
        return [
            states(len(one.response), lines, self.settings.lines_above)
            for one, lines in zip(batch, ends, strict=True)
        ]

    async def _continue(self, one: Trajectory, place: int, number: int) -> tuple[list[int], int]:
        """Token ids of one continuation, as long as the response could still have become, and how
        many of them the actor wrote."""
        prefix, state = one.response[:place], f"{one.key}/{place}"
        name = f"{state}/{number}"
        params = {
            "temperature": self.rollout.temperature,
            "top_p": self.rollout.top_p,
            "top_k": self.rollout.top_k,
            "repetition_penalty": 1.0,
        }
        # One engine for a state: its cache has the prefix.
        generate = partial(self.client.generate, request_id=state)
        if self.dialogues is not None:
            held = await self.dialogues.hold(
                one.prompt, name, params, generate, prefix, one.written[:place]
            )
            return held.tokens[place:], sum(held.written[place:])
        params |= {
            "max_tokens": self.rollout.response_length - place,
            "seed": sampling_seed(self.rollout.seed, name),
        }
        output = await generate(prompt_ids=[*one.prompt, *prefix], sampling_params=params)
        return list(output.token_ids), len(output.token_ids)

    async def _returns(
        self,
        wanted: Sequence[tuple[Trajectory, int, int]],
        continuations: Sequence[tuple[list[int], int]],
    ) -> np.ndarray:
        """Discounted scores of continuations, (continuations,); equal texts are scored once."""
        whole = [
            [*one.response[:place], *ids]
            for (one, place, _), (ids, _) in zip(wanted, continuations, strict=True)
        ]
        texts = self.tokenizer.batch_decode(whole, skip_special_tokens=True)
        known: dict[tuple[str, str], float] = {}
        found = np.empty(len(wanted))
        rows = zip(wanted, continuations, texts, strict=True)
        for row, ((one, _, _), (_, own), text) in enumerate(rows):
            if (one.key, text) not in known:
                known[one.key, text] = await _score(self.reward, one, text)
            found[row] = self.settings.gamma ** (own - 1) * known[one.key, text]
        return found


def trajectories(batch: Any) -> list[Trajectory]:
    """What verl's queue holds of a batch."""
    fields = ["prompts", "responses", "response_mask", "data_source", "reward_model"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    rows = zip(
        batch.keys,
        data["prompts"].unbind(),
        data["responses"].unbind(),
        data["response_mask"].unbind(),
        data["data_source"],
        data["reward_model"],
        strict=True,
    )
    return [
        Trajectory(
            key, prompt.tolist(), response.tolist(), mask.tolist(), source, reward["ground_truth"]
        )
        for key, prompt, response, mask, source, reward in rows
    ]


def states(length: int, ends: Sequence[int], lines_above: int | None) -> list[int]:
    """After how many tokens of a response a value is estimated, ascending, from 0.

    Args:
        length: tokens of the response.
        ends: after how many of them a line has ended.
        lines_above: longer responses have their states at line ends; None: none have.
    """
    if lines_above is None or length <= lines_above:
        return list(range(length))
    return line_states(length, ends)


def at_every_token(values: np.ndarray, places: Sequence[int], written: Sequence[int]) -> np.ndarray:
    """Values of all states of a response, (length,), from those at ``places``: between two of them
    they lie on a line over the tokens that the actor wrote.

    Args:
        written: 1 where a token is the actor's own, (length,).
    """
    before = np.cumsum(written) - np.asarray(written)
    return np.interp(before, before[list(places)], values)


def in_rows(values: Mapping[str, np.ndarray], keys: Sequence[str]) -> torch.Tensor:
    """Values by trajectory as a padded tensor, (batch, tokens) in float32.

    A row that verl filled the batch up with has no values: it is 0.
    """
    rows = torch.zeros(len(keys), max(map(len, values.values())))
    for row, key in enumerate(keys):
        if (found := values.get(key)) is not None:
            rows[row, : len(found)] = torch.from_numpy(found)
    return rows


async def _score(reward: Callable[..., Any], one: Trajectory, text: str) -> float:
    found = reward(
        data_source=one.source, solution_str=text, ground_truth=one.ground_truth, extra_info={}
    )
    if inspect.isawaitable(found):
        found = await found
    return float(found["score"] if isinstance(found, Mapping) else found)
