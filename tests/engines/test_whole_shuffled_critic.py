"""A frozen critic whose values are exchanged between trajectories, in whole runs."""

from __future__ import annotations

import numpy as np
import pytest
import whole_runs
from whole_runs import Run, storages

from criticflow.verl_plugin.shuffled_critic import KEPT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frozen(folder) -> Run:
    """The critic itself."""
    return whole_runs.train(folder, "frozen", "frozen")


@pytest.fixture(scope="module")
def shuffled(folder) -> Run:
    return whole_runs.train(folder, "shuffled", "shuffled")


def actor(run: Run, step: int) -> dict[str, bytes]:
    return storages(run.checkpoints / f"global_step_{step}" / "actor")


def test_values_that_stay_in_place_leave_the_weights_of_the_frozen_critic(folder, frozen):
    """The way of the values changes nothing, bit for bit."""
    same = whole_runs.train(
        folder,
        "unshuffled",
        "shuffled",
        module="unshuffling",
        **{"trainer.v1.trainer_mode": "unshuffling"},
    )
    assert (same.metrics[KEPT] == 1).all()
    for step in (1, 2):
        assert actor(same, step) == actor(frozen, step), step


def test_ppo_sees_the_critics_values_at_other_trajectories(frozen, shuffled):
    first, second = (run.metrics.iloc[0] for run in (frozen, shuffled))
    assert first["critic/score/mean"] == second["critic/score/mean"]  # the same responses
    for name in ("mean", "min", "max"):
        assert second[f"critic/values/{name}"] == pytest.approx(first[f"critic/values/{name}"])
    name = "criticflow/explained_variance/true_return"
    assert second[name] != pytest.approx(first[name], abs=1e-4)
    assert (shuffled.metrics[KEPT] < 0.5).all() and KEPT not in frozen.metrics
    assert "critic/vf_loss" not in shuffled.metrics
    assert actor(shuffled, 1) != actor(frozen, 1)


def test_it_is_the_same_again_and_after_a_resume(folder, shuffled):
    for last in (1, 2):
        part = whole_runs.train(
            folder, "in-parts", "shuffled", **{"trainer.total_training_steps": last}
        )
        assert list(part.metrics["training/global_step"]) == [last]
        assert actor(part, last) == actor(shuffled, last)
        whole = shuffled.metrics.iloc[last - 1]
        assert part.metrics[KEPT].iloc[0] == whole[KEPT]
    np.testing.assert_array_equal(part.responses["output"], shuffled.responses["output"])
