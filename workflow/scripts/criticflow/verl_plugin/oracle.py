"""An oracle in the critic's place: values are means of what the actor itself gets from each state.

    V(s_t) = f / K  sum_k gamma^(T_k - 1) R_k,   K continuations of the current actor from s_t,
                                                 of T_k tokens and score R_k, f = ``critic.scale``

This is VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679, section 4): no bias, and an error that
falls with K. Beside a constant critic as the floor it is the ceiling: what a run with it gains over
the constant is what a critic could be worth. The score is the task's, before KL and reward mask
(for an unrescaled mask of ratio m the fitting f is 1 - m).

Every token of a response is a state. In a response of more than ``lines_above`` tokens the states
are its first and last token and those that begin a line; values of the tokens between two states
are interpolated. The continuations come from the rollout engines, before they sleep, with the
temperature of the rollouts and a seed each, a function of (``rollout.seed``, trajectory, state,
number). The response that a state comes from is none of them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.workers.rollout.llm_server import LLMServerClient

from criticflow.models.line_ends import line_ends, line_states
from criticflow.verl_plugin.agent_loop import sampling_seed
from criticflow.verl_plugin.settings import OracleSettings


class Trajectory(NamedTuple):
    """A response to continue from its states.

    Attributes:
        key: verl's name for it.
        prompt, response: token ids.
        source, ground_truth: what the reward function takes.
    """

    key: str
    prompt: list[int]
    response: list[int]
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

    def values(self, batch: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Values of every trajectory of a batch, by key, (response tokens,) each; and metrics."""
        return asyncio.run(self._values(trajectories(batch)))

    async def _values(
        self, batch: Sequence[Trajectory]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        ends = line_ends(self.tokenizer, [one.response for one in batch])
        places = [
            states(len(one.response), lines, self.settings.lines_above)
            for one, lines in zip(batch, ends, strict=True)
        ]
        numbers = range(self.settings.continuations)
        wanted = [
            (one, place, number)
            for one, its_places in zip(batch, places, strict=True)
            for place in its_places
            for number in numbers
        ]
        written = await asyncio.gather(*(self._continue(*each) for each in wanted))
        returns = await self._returns(wanted, written)
        values, errors, begin = {}, [], 0
        for one, its_places in zip(batch, places, strict=True):
            count = len(its_places) * len(numbers)
            table = returns[begin : begin + count].reshape(len(its_places), len(numbers))
            begin += count
            values[one.key] = self.settings.scale * at_every_token(
                table.mean(axis=1), its_places, len(one.response)
            )
            if len(numbers) > 1:
                errors.append(table.var(axis=1, ddof=1) / len(numbers))
        metrics = {
            "criticflow/oracle/continuations": float(len(wanted)),
            "criticflow/oracle/tokens": float(sum(map(len, written))),
        }
        if errors:
            error = float(np.sqrt(np.concatenate(errors).mean()))
            metrics["criticflow/oracle/standard_error"] = error
        return values, metrics

    async def _continue(self, one: Trajectory, place: int, number: int) -> list[int]:
        """Token ids of one continuation, as long as the response could still have become."""
        name = f"{one.key}/{place}"
        output = await self.client.generate(
            request_id=name,  # one engine for a state: its cache has the prefix
            prompt_ids=[*one.prompt, *one.response[:place]],
            sampling_params={
                "temperature": self.rollout.temperature,
                "top_p": self.rollout.top_p,
                "top_k": self.rollout.top_k,
                "repetition_penalty": 1.0,
                "max_tokens": self.rollout.response_length - place,
                "seed": sampling_seed(self.rollout.seed, f"{name}/{number}"),
            },
        )
        return list(output.token_ids)

    async def _returns(
        self, wanted: Sequence[tuple[Trajectory, int, int]], written: Sequence[list[int]]
    ) -> np.ndarray:
        """Discounted scores of continuations, (continuations,); equal texts are scored once."""
        whole = [
            [*one.response[:place], *ids]
            for (one, place, _), ids in zip(wanted, written, strict=True)
        ]
        texts = self.tokenizer.batch_decode(whole, skip_special_tokens=True)
        known: dict[tuple[str, str], float] = {}
        found = np.empty(len(wanted))
        for row, ((one, _, _), ids, text) in enumerate(zip(wanted, written, texts, strict=True)):
            if (one.key, text) not in known:
                known[one.key, text] = await _score(self.reward, one, text)
            found[row] = self.settings.gamma ** (len(ids) - 1) * known[one.key, text]
        return found


def trajectories(batch: Any) -> list[Trajectory]:
    """What verl's queue holds of a batch."""
    fields = ["prompts", "responses", "data_source", "reward_model"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    rows = zip(
        batch.keys,
        data["prompts"].unbind(),
        data["responses"].unbind(),
        data["data_source"],
        data["reward_model"],
        strict=True,
    )
    return [
        Trajectory(key, prompt.tolist(), response.tolist(), source, reward["ground_truth"])
        for key, prompt, response, source, reward in rows
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


def at_every_token(values: np.ndarray, places: Sequence[int], length: int) -> np.ndarray:
    """Values of all states of a response, (length,), from those at ``places``: between two of them
    they lie on a line."""
    return np.interp(np.arange(length), places, values)


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
