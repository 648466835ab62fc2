"""State masking on gradients: nothing at the tokens that were read reaches actor or critic.

verl's own computation from rewards to both losses, on real models: advantages by GAE with
whitening, the KL in the reward and in the loss, entropy, the clipped policy loss and the clipped
value loss.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import AdaptiveKLController
from verl.trainer.ppo.ray_trainer import apply_kl_penalty
from verl.trainer.ppo.v1 import trainer_base
from verl.workers.config import FSDPActorConfig, FSDPCriticConfig
from verl.workers.utils.losses import ppo_loss, value_loss

from criticflow.config import Build
from criticflow.models.value_head import load_value_model
from criticflow.models.word_tokenizer import word_tokenizer
from criticflow.retrieval.dialogue import Codec, Dialogue, Limits
from criticflow.stages.base_model import initial_model
from criticflow.verl_plugin.critic_metrics import critic_metrics, monte_carlo_returns
from criticflow.verl_plugin.reward_mask import masked_trajectories
from criticflow.verl_plugin.search_loop import response_mask
from criticflow.verl_plugin.settings import RewardMaskSettings
from criticflow.verl_plugin.trainer import rewards_seen

DOCUMENTS = ["The rival of Anna Berg is Karl Voss.", "Karl Voss is the rival of Nora Elm."]
LIMITS = Limits(max_turns=2, max_turn_tokens=12, max_observation_tokens=40, max_response_tokens=128)
FIELDS = ("old_log_probs", "ref_log_prob", "values", "advantages", "returns")


def dialogues(codec: Codec) -> list[Dialogue]:
    """Three dialogues, of no, one and two searches; the second runs into its limit."""
    scripts = (
        ["<answer> Karl Voss </answer>"],
        ["<search> rival of Anna Berg </search>", "Karl is the rival of Anna"],
        ["<search> rival </search>", "<search> Nora </search>", "<answer> Nora Elm </answer>"],
    )
    found = []
    for turns in scripts:
        talk = Dialogue(codec.ids("who is the rival of Anna Berg"), LIMITS, codec)
        for turn in turns:
            talk.wrote(codec.ids(turn))
            if talk.query is not None:
                talk.observed(DOCUMENTS)
        assert talk.over
        found.append(talk)
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Actor, critic and dialogues."""
    texts = [*DOCUMENTS, "who is the rival of Anna Berg"]
    tokenizer = word_tokenizer(texts, 256)
    build = Build(
        task="x", hidden_size=64, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=1
    )
    actor = initial_model(build, tokenizer)
    folder = tmp_path_factory.mktemp("model")
    actor.save_pretrained(folder)
    critic = load_value_model(folder, allow_untrained=True, dtype=torch.float32)
    return actor, critic, dialogues(Codec(tokenizer))


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def gradients(study, masked: bool, disturbed: str | None = None) -> dict[str, list[torch.Tensor]]:
    """Gradients of both models, where one input is disturbed at the tokens that were read."""
    actor, critic, talks = study
    drawn = torch.Generator().manual_seed(0)
    width = max(len(talk.tokens) for talk in talks)
    lengths = [len(talk.tokens) for talk in talks]
    mask = padded([torch.tensor(response_mask(talk, masked)) for talk in talks])
    read = padded([1 - torch.tensor(talk.written) for talk in talks]).bool()
    fields = {
        name: torch.rand(len(talks), width, generator=drawn) - offset
        for name, offset in (("old_log_probs", 3.0), ("ref_log_prob", 3.0), ("values", 0.5))
    }
    noise = torch.randn(len(talks), width, generator=drawn)

    def disturb(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(read, tensor + noise, tensor) if name == disturbed else tensor

    scores = torch.zeros(len(talks), width)
    for row, (length, score) in enumerate(zip(lengths, (1.0, 0.0, 1.0), strict=True)):
        scores[row, length - 1] = score
    tensors = {name: disturb(name, tensor) for name, tensor in fields.items()}
    data = DataProto(
        batch=TensorDict(
            tensors | {"response_mask": mask, "token_level_scores": scores}, batch_size=len(talks)
        )
    )
    data, _ = apply_kl_penalty(data, AdaptiveKLController(0.05, 1.0, 1))
    data = trainer_base.compute_advantage_for_multi_trajectories(
        data,
        batch_keys=[f"{row}_0_0" for row in range(len(talks))],
        adv_estimator="gae",
        gamma=0.99,
        lam=0.9,
        config=AlgoConfig(),
    ).batch
    given = {
        name: jagged(
            [disturb(name, data[name])[row, :length] for row, length in enumerate(lengths)]
        )
        for name in FIELDS
    }
    prompts = [torch.tensor(talk.prompt) for talk in talks]
    responses = [torch.tensor(talk.tokens) for talk in talks]
    batch = TensorDict(
        given
        | {
            "prompts": jagged(prompts),
            "responses": jagged(responses),
            "response_mask": jagged([mask[row, :length] for row, length in enumerate(lengths)]),
        },
        batch_size=len(talks),
    )
    for name, value in (
        ("dp_size", 1), ("batch_num_tokens", int(mask.sum())), ("global_batch_size", len(talks)),
    ):  # fmt: skip
        batch.set_non_tensor(name, value)
    outputs = [[], [], []]
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.cat([prompt, response]).unsqueeze(0)
        logp = torch.log_softmax(actor(ids).logits[0].float(), -1)
        following = torch.roll(ids[0], -1)
        outputs[0].append(logp.gather(-1, following.unsqueeze(-1)).squeeze(-1))
        outputs[1].append(-(logp.exp() * logp).sum(-1))
        outputs[2].append(critic(ids).logits[0, :, 0].float())
    said = {"log_probs": jagged(outputs[0]), "entropy": jagged(outputs[1])}
    actor_config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, ppo_mini_batch_size=4, ppo_micro_batch_size_per_gpu=4,
        use_kl_loss=True, kl_loss_coef=0.1, entropy_coeff=0.01, clip_ratio=0.2,
    )  # fmt: skip
    critic_config = FSDPCriticConfig(
        strategy="fsdp2", ppo_mini_batch_size=4, ppo_micro_batch_size_per_gpu=4,
        rollout_n=1, cliprange_value=0.5,
    )  # fmt: skip
    found = {}
    for name, model, loss in (
        ("actor", actor, ppo_loss(actor_config, said, batch.clone())[0]),
        ("critic", critic, value_loss(critic_config, {"values": jagged(outputs[2])}, batch)[0]),
    ):
        model.zero_grad()
        loss.backward()
        found[name] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert any(gradient.abs().max() > 0 for gradient in found[name])
    return found


def same(one: dict[str, list[torch.Tensor]], other: dict[str, list[torch.Tensor]]) -> set[str]:
    return {
        name
        for name in one
        if all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True))
    }


@pytest.mark.parametrize("disturbed", FIELDS)
def test_what_stands_at_the_tokens_read_changes_no_gradient(study, disturbed):
    assert same(gradients(study, True), gradients(study, True, disturbed)) == {"actor", "critic"}


@pytest.mark.parametrize(
    ("disturbed", "reached"),
    [
        ("old_log_probs", {"actor", "critic"}),  # by the KL in the reward the critic too
        ("ref_log_prob", {"actor", "critic"}),
        ("values", {"actor", "critic"}),  # by GAE and its whitening, and by the clipped value loss
        ("advantages", {"actor"}),
        ("returns", {"critic"}),
    ],
)
def test_without_the_mask_it_does(study, disturbed, reached):
    unchanged = same(gradients(study, False), gradients(study, False, disturbed))
    assert unchanged == {"actor", "critic"} - reached


def test_the_mask_itself_matters(study):
    assert not same(gradients(study, True), gradients(study, False))


def test_the_reward_stands_where_the_actor_wrote(study):
    for talk in study[2]:
        assert response_mask(talk, True)[-1] == 1
        assert 0 in talk.written or not talk.queries


def test_returns_go_around_what_was_read(study):
    talks = study[2]
    mask = padded([torch.tensor(talk.written) for talk in talks]).numpy()
    scores = np.zeros(mask.shape)
    for row, talk in enumerate(talks):
        scores[row, len(talk.tokens) - 1] = 1.0
    returns = monte_carlo_returns(scores, mask, gamma=1.0)
    assert (returns[mask > 0] == 1).all() and (returns[mask == 0] == 0).all()
    discounted = monte_carlo_returns(scores, mask, gamma=0.5)
    # A discount counts what the actor wrote, not what it read.
    assert discounted[2, 0] == 0.5 ** (mask[2].sum() - 1)
    found = critic_metrics(returns, scores, scores, mask, gamma=1.0)
    assert found["criticflow/value_bias"] == 0


def test_the_reward_mask_takes_the_reward_of_a_whole_dialogue(study):
    talks = study[2]
    mask = padded([torch.tensor(talk.written) for talk in talks])
    scores = torch.zeros(mask.shape)
    for row, talk in enumerate(talks):
        scores[row, len(talk.tokens) - 1] = 1.0
    keys = [f"1-{row}-1_0_0" for row in range(len(talks))]
    batch = TensorDict(
        {"token_level_scores": scores, "token_level_rewards": scores, "response_mask": mask},
        batch_size=len(talks),
    )
    half = RewardMaskSettings(ratio=0.5, seed=1)
    rewards, _ = rewards_seen(batch, keys, np.ones(3, dtype=bool), 1, half, None)
    lost = masked_trajectories(half, 1, np.array([key[:-2] for key in keys]))
    assert rewards.sum(-1).tolist() == [0.0 if gone else 1.0 for gone in lost]
