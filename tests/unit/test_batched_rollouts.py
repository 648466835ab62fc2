"""Rollouts beside the engines: their scores, and how an actor of Ray begins."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys

import numpy as np
import pytest
import ray
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.verl_plugin import REWARD
from criticflow.verl_plugin.batched_rollouts import InPlaceReward, OneAgentLoop, OwnEngine
from criticflow.verl_plugin.rollout_errors import TellingAgentLoopWorker

BEGIN = """
import pickle, sys
kind = pickle.load(sys.stdin.buffer)
try:
    kind()
except TypeError as error:
    print(error)
"""


@pytest.mark.seconds
def test_an_actor_begins_as_verls_worker():
    # By value, verl's own __init__ would look for another copy of its class.
    actor = ray.remote(TellingAgentLoopWorker).__ray_metadata__.modified_class
    sent = ray.cloudpickle.dumps(actor)
    done = subprocess.run(
        [sys.executable, "-c", BEGIN], input=sent, capture_output=True, check=True
    )
    assert "missing" in done.stdout.decode() and "config" in done.stdout.decode()


@pytest.fixture(scope="module")
def tokenizer():
    return char_tokenizer(64)


def scored(tokenizer, folder, response, scores_alone):
    """A response to a Countdown problem with its score: in place, or as verl's reward worker
    computes it."""
    tokenizer.save_pretrained(folder)
    reward = {
        "custom_reward_function": {"path": REWARD, "name": "compute_score"},
        "reward_manager": {"source": "register", "name": "naive"},
        "reward_model": {"enable": False},
    }
    model = {"path": str(folder), "tokenizer_path": None}
    config = OmegaConf.create({"reward": reward, "actor_rollout_ref": {"model": model}})
    # Without verl's __init__, which connects to the queue of a training.
    loop = object.__new__(OneAgentLoop)
    loop.tokenizer, loop.processor, loop.mm_processor_kwargs = tokenizer, None, {}
    loop.scores_alone = scores_alone
    ids = tokenizer.encode(response, add_special_tokens=False)
    output = AgentLoopOutput(
        prompt_ids=[5, 6],
        response_ids=[*ids, tokenizer.eos_token_id],
        response_mask=[1] * (len(ids) + 1),
        num_turns=2,
        metrics=AgentLoopMetrics(),
        extra_fields={"turn_scores": [], "tool_rewards": []},
    )
    row = {
        "data_source": "countdown",
        "reward_model": {"ground_truth": {"numbers": [8, 2], "target": 10}, "style": "rule"},
        "extra_info": {"index": 3},
        "raw_prompt": np.array([{"role": "user", "content": "8 2 = 10"}], dtype=object),
        "uid": "1-ab-1",
    }

    async def score():
        loop.reward_loop_worker_handles = [InPlaceReward(config)]
        await loop._compute_score([output], kwargs=copy.deepcopy(row))

    asyncio.run(score())
    return output


@pytest.mark.parametrize(
    "response", ["<answer>8 + 2</answer>", "<answer>8 - 2</answer>", "8 + 2", ""]
)
def test_a_score_in_place_is_that_of_verls_reward_worker(tokenizer, tmp_path, response):
    ours = scored(tokenizer, tmp_path, response, scores_alone=True)
    verls = scored(tokenizer, tmp_path, response, scores_alone=False)
    assert ours.reward_score == verls.reward_score
    assert ours.extra_fields == verls.extra_fields
    assert ours.extra_fields["reward_extra_info"].keys() == {"score", "correct", "format_ok"}
    assert ours.metrics.compute_score > 0


def test_responses_in_place_score_differently(tokenizer, tmp_path):
    right, wrong, none = (
        scored(tokenizer, tmp_path, response, scores_alone=True).reward_score
        for response in ("<answer>8 + 2</answer>", "<answer>8 - 2</answer>", "8 + 2")
    )
    assert right == 1 and right > wrong > none


def test_an_engine_of_text_takes_no_pictures():
    async def generate(*_):
        raise AssertionError("the engine was asked")

    ask = OwnEngine(generate).generate
    with pytest.raises(ValueError, match="for text alone, not for image_data"):
        asyncio.run(ask("a", prompt_ids=[1], sampling_params={}, image_data=["picture"]))
