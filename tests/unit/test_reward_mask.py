"""The reward mask: which trajectories, and what happens to their rewards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from criticflow.errors import UserError
from criticflow.verl_plugin.reward_mask import (
    mask_metrics,
    masked_trajectories,
    reward_scale,
    uniform,
)
from criticflow.verl_plugin.settings import RewardMaskSettings, as_bool
from criticflow.verl_plugin.trainer import prompt_names

NAMES = [f"7-{index:04x}-1_{session}" for index in range(500) for session in range(2)]


@given(st.permutations(range(40)), st.sampled_from(["bernoulli", "fixed_ratio"]))
def test_mask_does_not_depend_on_the_order_of_the_batch(order, kind):
    settings = RewardMaskSettings(ratio=0.4, type=kind, seed=3)
    names = NAMES[:40]
    masked = dict(zip(names, masked_trajectories(settings, 7, names), strict=True))
    shuffled = [names[index] for index in order]
    assert all(
        masked[name] == value
        for name, value in zip(shuffled, masked_trajectories(settings, 7, shuffled), strict=True)
    )


def test_bernoulli_mask_does_not_depend_on_the_other_trajectories():
    settings = RewardMaskSettings(ratio=0.5)
    whole = masked_trajectories(settings, 1, NAMES)
    parts = [masked_trajectories(settings, 1, NAMES[start::3]) for start in range(3)]
    for start, part in enumerate(parts):
        assert (whole[start::3] == part).all()


def test_a_trajectory_is_named_by_step_and_prompt_not_by_its_place():
    prompts = [[{"role": "user", "content": text}] for text in ("a", "b", "a", "c")]
    names = prompt_names(7, prompts)
    assert len(set(names)) == 4  # the second "a" is another trajectory
    assert set(prompt_names(7, prompts[::-1])) == set(names)
    assert names[1] == prompt_names(7, prompts[1:])[0]
    assert not set(names) & set(prompt_names(8, prompts))
    assert not any("_" in name for name in names)  # verl appends _SAMPLE_OUTPUT


def test_mask_differs_between_seeds_and_steps():
    base = masked_trajectories(RewardMaskSettings(ratio=0.5, seed=0), 1, NAMES)
    assert (base != masked_trajectories(RewardMaskSettings(ratio=0.5, seed=1), 1, NAMES)).any()
    assert (base != masked_trajectories(RewardMaskSettings(ratio=0.5, seed=0), 2, NAMES)).any()


@pytest.mark.parametrize("kind", ["bernoulli", "fixed_ratio"])
def test_ratios_zero_and_one_are_exact(kind):
    assert not masked_trajectories(RewardMaskSettings(ratio=0.0, type=kind), 1, NAMES).any()
    assert masked_trajectories(RewardMaskSettings(ratio=1.0, type=kind), 1, NAMES).all()


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.9])
def test_bernoulli_masks_the_requested_share(ratio):
    masked = masked_trajectories(RewardMaskSettings(ratio=ratio), 1, NAMES)
    deviation = np.sqrt(ratio * (1 - ratio) / len(NAMES))
    assert abs(masked.mean() - ratio) < 4 * deviation


@given(st.floats(0, 1), st.integers(1, 200))
def test_fixed_ratio_masks_exactly_the_rounded_count(ratio, size):
    settings = RewardMaskSettings(ratio=ratio, type="fixed_ratio")
    masked = masked_trajectories(settings, 1, NAMES[:size])
    assert masked.sum() == int(np.floor(ratio * size + 0.5))


def test_draws_are_uniform():
    draws = np.array([uniform(0, 1, name) for name in NAMES])
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert counts.sum() == len(NAMES) and counts.min() > 60 and counts.max() < 140


def test_rescaling_keeps_the_expected_reward():
    settings = RewardMaskSettings(ratio=0.25, rescale=True)
    scale = reward_scale(settings, np.array([True, False, False, False]))
    assert scale.tolist() == pytest.approx([0, 4 / 3, 4 / 3, 4 / 3])
    assert scale.mean() == pytest.approx(1.0)


def test_metrics_show_true_scores_of_both_parts():
    metrics = mask_metrics(
        RewardMaskSettings(ratio=0.5), np.array([True, False, False]), np.array([1.0, 0.0, 1.0])
    )
    assert metrics["criticflow/reward_mask/num_masked"] == 1
    assert metrics["criticflow/reward_mask/actual_ratio"] == pytest.approx(1 / 3)
    assert metrics["criticflow/reward_mask/score_masked"] == 1.0
    assert metrics["criticflow/reward_mask/score_unmasked"] == 0.5


@pytest.mark.parametrize(
    "values", [{"ratio": 1.5}, {"ratio": -0.1}, {"type": "token"}, {"ratio": 1.0, "rescale": True}]
)
def test_impossible_settings_are_refused(values):
    default = {"ratio": 0.0, "type": "bernoulli", "rescale": False, "drop": False, "seed": None}
    keys = default | values
    algorithm = {f"reward_mask_{key}": value for key, value in keys.items()}
    config = OmegaConf.create({"algorithm": algorithm, "data": {"seed": 0}})
    with pytest.raises(UserError, match=r"algorithm\.reward_mask"):
        RewardMaskSettings.read(config)


def test_shells_booleans_are_read_as_booleans():
    assert as_bool("critic.freeze", "false") is False
    assert as_bool("critic.freeze", "True") is True
    assert as_bool("critic.freeze", 0) is False
    with pytest.raises(UserError, match=r"critic\.freeze='maybe'"):
        as_bool("critic.freeze", "maybe")
