"""Masks and control runs as whole runs: what verl logs, dumps and saves of each."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import whole_runs
from safetensors.torch import load_file
from token_share import compute_score
from whole_runs import storages

from criticflow.checkpoint.convert import convert
from criticflow.models.value_head import load_value_model
from criticflow.verl_plugin.random_reward import random_outcomes
from criticflow.verl_plugin.reward_mask import masked_trajectories, reward_scale
from criticflow.verl_plugin.settings import RandomRewardSettings, RewardMaskSettings

pytestmark = pytest.mark.slow

SEED = {"algorithm.reward_mask_seed": 7}  # not that of the data, which is 0
MASK = "criticflow/reward_mask/"


def steps(run):
    """Of each step of a run: its number, verl's metrics, trajectories' names, their scores."""
    for step, dump in run.responses.groupby("step"):
        (row,) = run.metrics[run.metrics["training/global_step"] == step].to_dict("records")
        names = [uid.rsplit("_", 1)[0] for uid in dump["uid"]]
        yield step, row, names, dump["score"].to_numpy()


def files(folder):
    """What lies in a checkpoint's part, less the ranks."""
    return {path.name.partition("_world")[0] for path in folder.iterdir()}


def assert_scores_are_true(run):
    """Scores are those of the responses, in verl's dump and in its metrics."""
    expected = [compute_score("", output, None) for output in run.responses["output"]]
    assert run.responses["score"].to_numpy() == pytest.approx(expected)
    for _, row, _, scores in steps(run):
        assert row["critic/score/mean"] == pytest.approx(scores.mean())
        assert row["critic/score/max"] == pytest.approx(scores.max())


def assert_mask_is_logged(row, ratio, masked, scores):
    assert row[MASK + "requested_ratio"] == ratio
    assert row[MASK + "actual_ratio"] == masked.mean()
    assert row[MASK + "num_masked"] == masked.sum()
    assert row[MASK + "score_masked"] == pytest.approx(scores[masked].mean())
    if not masked.all():
        assert row[MASK + "score_unmasked"] == pytest.approx(scores[~masked].mean())


# --- mask ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group(folder):
    """GRPO on one rank, four responses to a prompt, half of the rewards masked."""
    return whole_runs.train(folder, "group", "group", ranks=1, **SEED)


def group_advantages(rewards, names):
    """(r - mean) / std over each prompt's responses: equation 1 of GRPO (Shao et al. 2024)."""
    by_prompt = pd.Series(rewards).groupby([name.rsplit("_", 1)[0] for name in names])
    return (rewards - by_prompt.transform("mean")) / (by_prompt.transform("std") + 1e-6)


def test_grpo_sees_masked_rewards_before_its_groups_baseline(group):
    settings = RewardMaskSettings(ratio=0.5, type="fixed_ratio", seed=7)
    assert_scores_are_true(group)
    assert len(group.metrics) == 2
    for step, row, names, scores in steps(group):
        masked = masked_trajectories(settings, step, names)
        assert masked.sum() == 16 and len(masked) == 32
        assert_mask_is_logged(row, 0.5, masked, scores)
        seen = np.where(masked, 0.0, scores)
        assert row["critic/rewards/mean"] == pytest.approx(seen.mean())
        advantages = group_advantages(seen, names)
        found = [row["critic/advantages/min"], row["critic/advantages/max"]]
        assert found == pytest.approx([advantages.min(), advantages.max()], rel=1e-4)
        after = np.where(masked, 0.0, group_advantages(scores, names))
        assert found != pytest.approx([after.min(), after.max()], rel=1e-2)


def test_grpo_has_no_critic(group):
    assert not [name for name in group.metrics if "value" in name or "update_critic" in name]
    for step in (1, 2):
        assert (group.checkpoints / f"global_step_{step}" / "actor").is_dir()
        assert not (group.checkpoints / f"global_step_{step}" / "critic").exists()


@pytest.fixture(scope="module")
def whole(folder):
    """Four masked steps; of the critic's checkpoints the last alone is kept, without optimizer."""
    return whole_runs.train(
        folder,
        "whole",
        "masked",
        **SEED,
        **{
            "trainer.save_freq": 3,
            "trainer.max_critic_ckpt_to_keep": 1,
            "critic.checkpoint.save_contents": "[model]",
        },
    )


def test_a_rescaled_mask_is_what_ppo_sees_and_what_the_critic_is_fitted_to(whole):
    settings = RewardMaskSettings(ratio=0.5, rescale=True, seed=7)
    assert_scores_are_true(whole)
    assert list(whole.metrics["training/global_step"]) == [1, 2, 3, 4]
    for step, row, names, scores in steps(whole):
        masked = masked_trajectories(settings, step, names)
        assert_mask_is_logged(row, 0.5, masked, scores)
        seen = scores * reward_scale(settings, masked)
        assert row["critic/rewards/mean"] == pytest.approx(seen.mean())
        # With gamma = lambda = 1 the critic's target at every token is the whole reward.
        assert row["critic/returns/max"] == pytest.approx(seen.max())
        assert row["critic/returns/min"] == pytest.approx(seen.min(), abs=1e-6)


def test_a_resume_in_between_changes_no_mask_and_no_weight(folder, whole):
    parts = [
        whole_runs.train(
            folder, "parts", "masked", **SEED, **{"trainer.total_training_steps": last}
        )
        for last in (2, 4)
    ]
    assert [list(part.metrics["training/global_step"]) for part in parts] == [[1, 2], [3, 4]]
    logged = [name for name in whole.metrics if name.startswith((MASK, "critic/score", "critic/r"))]
    joined = pd.concat([part.metrics for part in parts], ignore_index=True)
    pd.testing.assert_frame_equal(joined[logged], whole.metrics[logged])
    assert joined[MASK + "num_masked"].nunique() > 1  # the steps can be told apart
    pd.testing.assert_frame_equal(parts[-1].responses, whole.responses)
    once, twice = (run.checkpoints / "global_step_4" for run in (whole, parts[-1]))
    for what in ("model", "optim"):
        assert storages(once / "actor", what) == storages(twice / "actor", what)
    assert storages(once / "critic") == storages(twice / "critic")


def test_checkpoints_of_a_trained_critic_are_those_that_verl_documents(whole):
    kept = sorted(path.name for path in whole.checkpoints.glob("global_step_*"))
    assert kept == ["global_step_3", "global_step_4"]  # every third step, and the last
    assert not (whole.checkpoints / "global_step_3" / "critic").exists()
    everything = {"model", "optim", "extra_state", "fsdp_config.json", "huggingface"}
    for step in (3, 4):
        assert files(whole.checkpoints / f"global_step_{step}" / "actor") == everything
    critic = whole.checkpoints / "global_step_4" / "critic"
    assert files(critic) == {"model", "fsdp_config.json", "huggingface"}


# --- control runs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def constant(folder):
    """A constant critic; every reward masked; a KL penalty in the reward."""
    return whole_runs.train(
        folder, "constant", "constant", **{"trainer.max_critic_ckpt_to_keep": 1}
    )


def test_a_constant_critic_says_the_same_throughout_a_run(constant):
    metrics = constant.metrics
    for name in ("mean", "min", "max"):
        assert metrics[f"critic/values/{name}"].to_numpy() == pytest.approx(0.4)
    # Of the returns it explains nothing.
    explained = metrics["criticflow/explained_variance/true_return"]
    assert explained.to_numpy() == pytest.approx(0.0, abs=1e-9)
    assert "critic/vf_loss" not in metrics


def test_a_mask_of_one_leaves_no_reward_not_even_the_kl_penalty(constant):
    metrics = constant.metrics
    assert_scores_are_true(constant)
    for _, row, _, scores in steps(constant):
        assert_mask_is_logged(row, 1.0, np.ones(len(scores), dtype=bool), scores)
    assert MASK + "score_unmasked" not in metrics
    # At first the actor is the reference policy, and as precise; then it moves away.
    assert metrics["actor/reward_kl_penalty"].iloc[0] == 0
    assert (metrics["actor/reward_kl_penalty"].iloc[1:] != 0).all()
    for name in ("mean", "min", "max"):
        assert (metrics[f"critic/rewards/{name}"] == 0).all()
    assert (metrics["critic/score/mean"] > 0).all()


def test_checkpoints_of_a_frozen_critic_are_those_that_verl_documents(constant):
    kept = sorted(path.name for path in constant.checkpoints.glob("global_step_*"))
    assert kept == ["global_step_2", "global_step_3"]
    assert not (constant.checkpoints / "global_step_2" / "critic").exists()
    assert (constant.checkpoints / "global_step_2" / "actor").is_dir()
    critic = constant.checkpoints / "global_step_3" / "critic"
    assert files(critic) == {"model", "extra_state", "fsdp_config.json", "huggingface"}


@pytest.fixture(scope="module")
def random(folder):
    """Random rewards, and a frozen critic whose head was never trained."""
    return whole_runs.train(
        folder, "random", "random", **{"critic.model.path": str(folder / "base")}
    )


def test_random_rewards_have_nothing_to_do_with_the_responses(random):
    assert_scores_are_true(random)
    settings = RandomRewardSettings(probability=0.5, seed=0)
    assert len(random.metrics) == 2
    for step, row, names, scores in steps(random):
        # A function of names, which are made of steps and prompts.
        outcomes = random_outcomes(settings, step, names)
        assert set(outcomes) == {0.0, 1.0} and not set(scores) <= {0.0, 1.0}
        assert row["criticflow/random_reward/mean"] == outcomes.mean()
        for name in ("mean", "min", "max"):
            assert row[f"critic/rewards/{name}"] == getattr(outcomes, name)()
        # The critic's targets are the random rewards, too.
        found = [row["critic/returns/min"], row["critic/returns/max"]]
        assert found == pytest.approx([0.0, 1.0], abs=1e-6)


def test_an_untrained_frozen_critic_keeps_its_fresh_head(folder, random, tmp_path):
    assert (random.metrics["critic/values/max"] > random.metrics["critic/values/min"]).all()
    first, last = (random.checkpoints / f"global_step_{step}" / "critic" for step in (1, 2))
    assert storages(first) == storages(last)
    convert(last, tmp_path / "critic", kind="critic")
    saved = load_file(tmp_path / "critic" / "model.safetensors")
    fresh = load_value_model(folder / "base", allow_untrained=True, seed=0).state_dict()
    assert saved.keys() == fresh.keys()
    assert all(torch.equal(saved[name], fresh[name]) for name in fresh)
