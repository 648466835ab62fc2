"""The critic's own settings in whole runs: equal lambdas change nothing, others do their work."""

from __future__ import annotations

import pytest
import whole_runs
from whole_runs import storages

from criticflow.verl_plugin.advantages import GATE

pytestmark = pytest.mark.slow


def test_equal_lambdas_leave_the_weights_of_stock_verl_bit_for_bit(folder):
    two = whole_runs.train(folder, "two-lambdas", recorded=True, **{"algorithm.critic_lam": 1.0})
    stock = whole_runs.train(folder, "stock", recorded=True, stock=True)
    for step in (1, 2):
        for model in ("actor", "critic"):
            ours, theirs = (run.checkpoints / f"global_step_{step}" / model for run in (two, stock))
            assert storages(ours) == storages(theirs), (step, model)


def test_dropped_gated_and_adaptive_steps_train_and_log_true_lengths(folder):
    run = whole_runs.train(
        folder,
        "everything",
        **{
            "algorithm.lam": 0.9,
            "algorithm.critic_lam": 1.0,
            "algorithm.length_adaptive_alpha": 2.0,
            "algorithm.value_gate": True,
            "algorithm.reward_mask_ratio": 0.5,
            "algorithm.reward_mask_type": "fixed_ratio",
            "algorithm.reward_mask_drop": True,
            "critic.ppo_epochs": 2,
            "critic.scale": 0.5,
            "trainer.total_training_steps": 4,
            "trainer.keep_checkpoints": 1,
            "trainer.keep_steps": "[2]",
        },
    )
    assert "critic: values times 0.5" in run.output
    rows = run.metrics
    assert (rows["criticflow/reward_mask/num_masked"] == 4).all()
    assert rows[GATE].isin([0.0, 1.0]).all()
    # 1 - 1 / (2 l) for responses of l tokens, none of which is empty.
    assert rows["criticflow/length_adaptive_lambda/mean"].between(0.5, 1 - 1 / 48).all()
    # Half of the trajectories count in no loss, yet none is logged as empty.
    assert (rows["response_length/min"] >= 1).all()
    assert (rows["critic/vf_loss"] > 0).all() and (rows["actor/grad_norm"] > 0).all()
    kept = sorted(path.name for path in run.checkpoints.glob("global_step_*"))
    assert kept == ["global_step_2", "global_step_4"]
