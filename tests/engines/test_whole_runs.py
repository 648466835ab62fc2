"""What only a whole run can show: nothing changes by default, and a critic can be taken alone."""

import re

import pytest
import torch
import whole_runs
from safetensors.torch import load_file
from whole_runs import storages

from criticflow.checkpoint.convert import convert

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(folder):
    """Two steps of criticflow's trainer with the defaults."""
    return whole_runs.train(folder, "plain", recorded=True).checkpoints


def test_with_the_defaults_training_is_stock_verls_bit_for_bit(folder, plain):
    """Equal rollouts give equal weights and optimizer states, after one step and after two.

    The other run is ``verl.trainer.main_ppo`` with verl's own configuration, trainer, workers,
    engines and loader of value models. It has of criticflow what stock verl needs on a CPU
    (``stock_cpu.py``): the platform, its patches, and another attention than the flash-attention
    that verl forces on value models, which has no CPU kernel.
    """
    stock = whole_runs.train(folder, "stock", recorded=True, stock=True)
    assert "Injected 8 cached trajectories from step 2" in stock.output
    before = None
    for step in (1, 2):
        for model in ("actor", "critic"):
            ours, theirs = (
                run / f"global_step_{step}" / model for run in (plain, stock.checkpoints)
            )
            for what in ("model", "optim"):
                assert storages(ours, what) == storages(theirs, what), (step, model, what)
        weights = storages(plain / f"global_step_{step}" / "actor")
        assert weights != before  # it did learn
        before = weights


def start_warm(folder, checkpoint, **verl):
    """A frozen critic from a checkpoint, all else from the base model."""
    common = {
        "trainer.load_critic_only": True,
        "trainer.resume_from_path": str(checkpoint),
        "critic.freeze": True,
        "critic.model.path": str(folder / "base"),
    }
    return whole_runs.train(folder, "warm", **common, **verl)


@pytest.fixture(scope="module")
def warm(folder, plain):
    # With the warm-up, step 1 leaves the actor as it is.
    return start_warm(folder, plain / "global_step_2", **{"trainer.critic_warmup": 2})


def test_a_warm_start_takes_the_critic_and_nothing_else(folder, plain, warm, tmp_path):
    trained = storages(plain / "global_step_2" / "critic")
    assert trained != storages(plain / "global_step_1" / "critic")
    # Steps are counted from 0, and the critic is that of the checkpoint, byte for byte, for good.
    assert list(warm.metrics["training/global_step"]) == [1, 2]
    for step in (1, 2):
        assert storages(warm.checkpoints / f"global_step_{step}" / "critic") == trained
        assert not list((warm.checkpoints / f"global_step_{step}" / "critic").glob("optim_*"))
    # The actor is fresh: before its first update it is the base model.
    convert(warm.checkpoints / "global_step_1" / "actor", tmp_path / "actor", kind="actor")
    actor, base = (
        load_file(path / "model.safetensors") for path in (tmp_path / "actor", folder / "base")
    )
    assert actor.keys() == base.keys()
    assert all(torch.equal(actor[name], base[name]) for name in base)
    # The data come in the order of a new run.
    orders = [run / "global_step_2" / "data.pt" for run in (plain, warm.checkpoints)]
    assert orders[0].read_bytes() == orders[1].read_bytes()


def test_a_warm_starts_log_proves_what_was_loaded(plain, warm):
    source = plain / "global_step_2" / "critic"
    assert f"26 tensors from {source}, none from elsewhere" in warm.output
    assert "'score.weight'" in warm.output
    pairs = re.findall(r"rank (\d) sha256 (\w{16}) before, (\w{16}) after", warm.output)
    assert [rank for rank, _, _ in pairs] == ["0", "1"]
    assert all(before != after for _, before, after in pairs)


def test_a_frozen_critic_costs_no_update(warm):
    metrics = warm.metrics
    assert (metrics["timing_s/update_critic"] < 0.01 * metrics["timing_s/step"]).all()
    assert "critic/vf_loss" not in metrics and "critic/values/mean" in metrics


def test_a_runs_own_checkpoint_wins_over_its_warm_start(folder, plain, warm):
    trained = storages(plain / "global_step_2" / "critic")
    further = start_warm(folder, plain / "global_step_1", **{"trainer.total_training_steps": 3})
    own = warm.checkpoints / "global_step_2"
    assert f"critic: from this run's own {own}; no warm start" in further.output
    assert list(further.metrics["training/global_step"]) == [3]
    assert storages(further.checkpoints / "global_step_3" / "critic") == trained
