"""The control runs: what PPO sees of each, in verl's own advantage computation."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.v1 import trainer_base

from criticflow.config import load_config
from criticflow.errors import UserError
from criticflow.verl_plugin import patches
from criticflow.verl_plugin.random_reward import random_outcomes, with_random_outcomes
from criticflow.verl_plugin.settings import RandomRewardSettings, RewardMaskSettings
from criticflow.verl_plugin.trainer import rewards_seen

NAMES = [f"1-{index:04x}-1_0" for index in range(400)]
KEYS = [f"{name}_0" for name in NAMES]
TOKENS = 6


def batch(values: torch.Tensor | None = None) -> DataProto:
    """400 responses of 1 to 6 tokens with a score of 0 or 1 at their last token."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, TOKENS + 1, (len(NAMES),), generator=generator)
    mask = (torch.arange(TOKENS) < lengths.unsqueeze(1)).long()
    scores = torch.zeros(len(NAMES), TOKENS)
    outcomes = torch.randint(0, 2, (len(NAMES),), generator=generator).float()
    scores[torch.arange(len(NAMES)), lengths - 1] = outcomes
    tensors = {
        "response_mask": mask,
        "token_level_scores": scores,
        "token_level_rewards": scores,
        "values": (torch.zeros_like(scores) if values is None else values) * mask,
    }
    return DataProto(batch=TensorDict(tensors, batch_size=len(NAMES)))


def advantages(data: DataProto, mask=None, random=None, lam: float = 1.0) -> DataProto:
    """verl's GAE on what the settings make of the rewards."""

    def transform(data: DataProto, keys: list[str]) -> None:
        real = np.ones(len(keys), dtype=bool)
        rewards, _ = rewards_seen(data.batch, keys, real, 1, mask or RewardMaskSettings(), random)
        if rewards is not None:
            data.batch["token_level_rewards"] = rewards

    with patches.around_advantage(transform, lambda data: None):
        return trainer_base.compute_advantage_for_multi_trajectories(
            data, batch_keys=KEYS, adv_estimator="gae", gamma=1.0, lam=lam, config=AlgoConfig()
        )


def whitened(advantage: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    inside = advantage[mask > 0].double()
    scaled = (advantage - inside.mean()) / inside.std()
    return (scaled * mask).float()


def test_random_outcomes_are_bernoulli_and_keyed_by_seed_step_and_trajectory():
    settings = RandomRewardSettings(probability=0.3, seed=5)
    outcomes = random_outcomes(settings, 2, NAMES)
    assert set(outcomes.tolist()) == {0.0, 1.0}
    assert abs(outcomes.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(NAMES))
    assert (random_outcomes(settings, 2, NAMES[::-1])[::-1] == outcomes).all()
    assert (random_outcomes(settings, 2, NAMES[::3]) == outcomes[::3]).all()
    assert (random_outcomes(settings, 3, NAMES) != outcomes).any()
    other = RandomRewardSettings(probability=0.3, seed=6)
    assert (random_outcomes(other, 2, NAMES) != outcomes).any()


def test_random_outcomes_and_the_mask_are_independent_with_one_seed():
    data = batch()
    mask, random = (
        RewardMaskSettings(ratio=0.5, seed=1),
        RandomRewardSettings(probability=0.5, seed=1),
    )
    keep_all = np.ones(len(KEYS), dtype=bool)
    rewards, metrics = rewards_seen(data.batch, KEYS, keep_all, 1, mask, random)
    outcomes = random_outcomes(random, 1, NAMES)
    kept = rewards.sum(dim=-1).numpy()
    # Were the two the same draws, what is masked would be what is rewarded, and nothing be left.
    assert 0.4 < kept.sum() / outcomes.sum() < 0.6
    assert metrics["criticflow/random_reward/mean"] == pytest.approx(outcomes.mean())


def test_random_rewards_replace_the_outcome_and_leave_the_true_scores():
    data = batch()
    scores = data.batch["token_level_scores"].clone()
    settings = RandomRewardSettings(probability=0.5, seed=3)
    advantages(data, random=settings)
    assert torch.equal(data.batch["token_level_scores"], scores)
    rewards = data.batch["token_level_rewards"]
    outcomes = torch.from_numpy(random_outcomes(settings, 1, NAMES))
    assert torch.equal(rewards.sum(dim=-1), outcomes)
    last = data.batch["response_mask"].sum(dim=-1) - 1
    assert torch.equal(rewards[torch.arange(len(NAMES)), last], outcomes)
    # The critic's regression targets are those of the random rewards, too.
    expected = outcomes.unsqueeze(-1) * data.batch["response_mask"]
    assert torch.equal(data.batch["returns"] * data.batch["response_mask"], expected)


def test_a_kl_penalty_stays_in_random_rewards():
    scores, mask = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1, 1, 0]])
    penalty = torch.tensor([[-0.5, -0.25, 0.0]])
    rewards = with_random_outcomes(scores + penalty, scores, mask, np.array([0.0]))
    assert torch.equal(rewards, penalty)


@pytest.mark.parametrize("lam", [1.0, 0.9])
def test_a_constant_critic_gives_the_outcome_less_a_baseline(lam):
    data = advantages(batch(torch.full((len(NAMES), TOKENS), 0.3)), lam=lam)
    mask = data.batch["response_mask"]
    outcome = data.batch["token_level_scores"].sum(dim=-1, keepdim=True)
    steps_left = mask.sum(dim=-1, keepdim=True) - 1 - torch.arange(TOKENS)
    expected = torch.where(mask > 0, lam ** steps_left.float() * (outcome - 0.3), 0.0)
    torch.testing.assert_close(
        data.batch["advantages"] * mask, whitened(expected, mask), rtol=1e-4, atol=1e-5
    )


def test_a_masked_arm_fits_its_critic_to_masked_rewards():
    settings = RewardMaskSettings(ratio=0.5, seed=2)
    data = advantages(batch(), mask=settings)
    kept = data.batch["token_level_rewards"].sum(dim=-1)
    true = data.batch["token_level_scores"].sum(dim=-1)
    assert kept.sum() < true.sum()
    mask = data.batch["response_mask"]
    assert torch.equal(data.batch["returns"] * mask, kept.unsqueeze(-1) * mask)


def test_a_group_estimator_compares_masked_rewards():
    data, settings = batch(), RewardMaskSettings(ratio=0.5, seed=2)
    data.non_tensor_batch["uid"] = np.arange(len(KEYS)) // 8  # groups of eight responses
    keys = [f"1-{index // 8:04x}-1_{index % 8}_0" for index in range(len(KEYS))]

    def transform(data: DataProto, keys: list[str]) -> None:
        real = np.ones(len(keys), dtype=bool)
        data.batch["token_level_rewards"], _ = rewards_seen(
            data.batch, keys, real, 1, settings, None
        )

    with patches.around_advantage(transform, lambda data: None):
        trainer_base.compute_advantage_for_multi_trajectories(
            data, batch_keys=keys, adv_estimator="grpo", config=AlgoConfig()
        )
    advantage = data.batch["advantages"][:, 0].reshape(-1, 8)
    kept = data.batch["token_level_rewards"].sum(dim=-1).reshape(-1, 8)
    true = data.batch["token_level_scores"].sum(dim=-1).reshape(-1, 8)
    assert (kept != true).any()
    # Were the mask applied after the baseline, advantages would not sum to 0 over a group, and a
    # masked success would have another advantage than a failure of the same group.
    torch.testing.assert_close(advantage.sum(dim=1), torch.zeros(50), rtol=0, atol=1e-5)
    for group, rewards in zip(advantage, kept, strict=True):
        assert group[rewards == 0].unique().numel() <= 1


def test_a_rescaled_mask_keeps_the_mean_reward():
    settings = RewardMaskSettings(ratio=0.25, type="fixed_ratio", rescale=True, seed=2)
    data = batch()
    data.batch["token_level_scores"] = data.batch["response_mask"] / TOKENS
    data.batch["token_level_rewards"] = data.batch["token_level_scores"]
    rewards, _ = rewards_seen(data.batch, KEYS, np.ones(len(KEYS), dtype=bool), 1, settings, None)
    totals, true = rewards.sum(dim=-1), data.batch["token_level_scores"].sum(dim=-1)
    kept = totals > 0
    assert kept.sum() == 300
    torch.testing.assert_close(totals[kept], true[kept] * 4 / 3)


def test_the_mask_counts_real_trajectories_only():
    real = np.arange(len(KEYS)) < 100  # the rest stands for what verl pads a batch with
    rewards, metrics = rewards_seen(
        batch().batch, KEYS, real, 1, RewardMaskSettings(ratio=0.5, type="fixed_ratio"), None
    )
    assert metrics["criticflow/reward_mask/num_masked"] == 50
    assert rewards is not None


def test_nothing_is_changed_by_default():
    rewards, metrics = rewards_seen(
        batch().batch, KEYS, np.ones(len(KEYS), dtype=bool), 1, RewardMaskSettings(), None
    )
    assert rewards is None and metrics == {}


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_impossible_probabilities_are_refused(probability):
    algorithm = {"random_reward": probability, "random_reward_seed": None}
    config = OmegaConf.create({"algorithm": algorithm, "data": {"seed": 0}})
    with pytest.raises(UserError, match=r"algorithm\.random_reward"):
        RandomRewardSettings.read(config)


RUNS = {
    "models": {"base": {"path": "models/base"}},
    "tasks": {"t": {"kind": "countdown", "source": {"generate": {}}, "split": {"test": 64}}},
    "runs": {
        "cold": {"model": "base", "task": "t"},
        "cold-masked": {"like": "cold", "reward_mask": {"ratio": 0.5}},
        "warm": {"like": "cold", "critic": {"from": "cold-masked", "freeze": True}},
        "untrained": {"like": "cold", "critic": {"freeze": True, "allow_untrained": True}},
        "constant": {"like": "cold", "critic": {"freeze": True, "constant": 0.4}},
        "random": {"like": "cold", "random_reward": 0.4},
        "rescaled": {"like": "cold", "reward_mask": {"ratio": 0.5, "rescale": True}},
    },
}


def test_every_control_run_is_reachable_by_configuration():
    config = load_config(RUNS)
    assert config.runs["warm"].critic.from_run == "cold-masked"
    assert config.runs["cold-masked"].reward_mask.ratio == 0.5
    assert config.runs["constant"].critic.constant == 0.4
    assert config.runs["random"].random_reward == 0.4


def test_a_constant_critic_that_would_learn_is_refused():
    raw = RUNS | {"runs": {"c": {"model": "base", "task": "t", "critic": {"constant": 0.4}}}}
    with pytest.raises(UserError, match=r"runs\.c\.critic.*freeze"):
        load_config(raw)
