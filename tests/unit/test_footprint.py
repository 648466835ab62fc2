"""The expected memory of a training: beside measured ones, and by what it grows."""

from __future__ import annotations

import pytest

from criticflow.config import Critic, Resources, Run, Shape, Source, Task, Train
from criticflow.models.weights import Weights
from criticflow.training import footprint as fp

SHAPE = Shape(
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_size=64,
    vocab_size=49152,
    tied_embeddings=True,
)
WEIGHTS = Weights(parameters=134_515_008, largest=49152 * 576)
TASK = Task(
    kind="countdown",
    source=Source(files={"train": "train.jsonl"}),
    max_prompt_length=416,
    max_response_length=128,
)


def parts(critic: Weights | None = WEIGHTS, ranks: int = 2, **train) -> dict[str, float]:
    run = Run(model="base", task="problems", train=Train(micro_batch_size=1, **train))
    used = Resources(cpu_ranks=ranks, kv_cache_gb=0.25)
    return {part.name: part.gib for part in fp.footprint(run, TASK, used, SHAPE, WEIGHTS, critic)}


def test_a_trained_parameter_takes_16_bytes_and_a_frozen_one_4():
    run = Run(model="base", task="problems", critic=Critic(freeze=True, path="critic"))
    frozen = fp.footprint(run, TASK, Resources(), SHAPE, WEIGHTS, WEIGHTS)
    size = WEIGHTS.parameters / fp.GIB
    assert parts()["actor"] == parts()["critic"] == pytest.approx(16 * size)
    assert {part.name: part.gib for part in frozen}["critic"] == pytest.approx(4 * size)
    assert "critic" not in parts(critic=None)


def test_states_in_bfloat16_take_half():
    verl = {fp.ACTOR_DTYPE: "bfloat16", fp.CRITIC_DTYPE: "bfloat16"}
    assert parts(verl=verl)["actor"] == parts()["actor"] / 2
    assert parts(verl=verl)["critic"] == parts()["critic"] / 2


def test_what_is_computed_in_bfloat16_takes_half_and_the_whole_embedding_stays():
    embedding = 2 * 4 * 2 * WEIGHTS.largest / fp.GIB  # ranks, bytes, with its gradient
    full, half = (parts(dtype=dtype)["micro-batches"] for dtype in ("float32", "bfloat16"))
    assert half - embedding == pytest.approx((full - embedding) / 2)


def test_a_reference_policy_is_there_where_a_kl_term_asks_for_it():
    assert "reference policy" not in parts()
    assert parts(kl_coef=0.01)["reference policy"] == parts(kl_loss_coef=0.01)["reference policy"]


def test_gradient_checkpointing_spares_most_of_a_micro_batch():
    spared = parts(verl={fp.CHECKPOINTING: True})["micro-batches"]
    assert spared < parts()["micro-batches"] / 2


def test_every_rank_has_an_engine_and_micro_batches_of_its_own():
    for name in ("rollout engines", "micro-batches", "new rollout weights"):
        assert parts()[name] == 2 * parts(ranks=1)[name]


def test_what_helps_most_is_named_first():
    all_parts = [fp.Part("a", 1.0, "key.a"), fp.Part("b", 2.0, "key.b, key.a")]
    assert fp.described(all_parts) == "b 2.0, a 1.0"
    assert fp.remedies(all_parts) == "key.b, key.a"
