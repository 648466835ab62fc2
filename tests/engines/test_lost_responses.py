"""A whole run whose rollouts fail: what verl would fill up in silence ends the training."""

from __future__ import annotations

import re

import pytest
import whole_runs

pytestmark = pytest.mark.slow

LOST = "criticflow/lost_trajectories"
# verl's own agent loop and its reward worker, as on GPUs.
AS_ON_GPUS = {
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class": (
        "criticflow.verl_plugin.rollout_errors.TellingAgentLoopManager"
    ),
    "reward.num_workers": 1,
}


def end(run) -> str:
    (line,) = re.findall(r"^error: (.*)$", run.output, re.MULTILINE)
    return line


def test_errors_of_a_reward_end_the_training_with_their_own_words(folder):
    run = whole_runs.train(folder, "odd", ranks=1, reward="failing_reward.py", fails=True)
    assert re.match(r"[1-8] of 8 trajectories of a step were lost .* allows a share of 0", end(run))
    assert "ArithmeticError" in end(run) and "an odd number of characters" in end(run)
    assert run.metrics.empty


def test_a_reward_worker_that_died_ends_the_training(folder, monkeypatch):
    monkeypatch.setenv("REWARD_ENDS_WITH", "7")
    options = {"ranks": 1, "reward": "failing_reward.py", "fails": True}
    run = whole_runs.train(folder, "dead", **options, **AS_ON_GPUS)
    assert "trajectories of a step were lost" in end(run)
    assert re.search(r"ActorDiedError|ActorUnavailableError", end(run))


def test_within_the_tolerance_it_goes_on_and_logs_what_was_lost(folder):
    options = {"ranks": 1, "reward": "failing_reward.py", "trainer.lost_trajectories": 0.99}
    run = whole_runs.train(folder, "tolerant", **options)
    assert list(run.metrics["training/global_step"]) == [1, 2]
    assert (run.metrics[LOST] > 0).all()
    rewarded = run.responses["score"].eq(1).groupby(run.responses["step"]).sum()
    assert list(run.metrics[LOST]) == [8 - rewarded[step] for step in (1, 2)]
