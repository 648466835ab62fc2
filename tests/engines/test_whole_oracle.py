"""An oracle in the critic's place: its values reach PPO unchanged, and are the actor's own."""

from __future__ import annotations

import numpy as np
import pytest
import whole_runs
from whole_runs import storages

pytestmark = pytest.mark.slow


def test_a_critics_own_values_by_the_oracles_way_leave_stock_verls_weights_bit_for_bit(folder):
    """The values that verl wrote are overwritten with NaN before they are given back."""
    ours = whole_runs.train(
        folder,
        "injected",
        recorded=True,
        module="injecting",
        **{"trainer.v1.trainer_mode": "injecting"},
    )
    stock = whole_runs.train(folder, "stock", recorded=True, stock=True)
    assert (ours.metrics["injected"] == 8).all()
    for step in (1, 2):
        for model in ("actor", "critic"):
            pair = (run.checkpoints / f"global_step_{step}" / model for run in (ours, stock))
            one, other = (storages(path) for path in pair)
            assert one == other, (step, model)


def test_an_oracle_says_what_the_actor_gets(folder):
    """The reward is the share of even code points: the value of a state late in a response lies
    close to what the response gets, that of its beginning does not."""
    run = whole_runs.train(folder, "oracle", "oracle")
    rows = run.metrics
    lengths = rows["response_length/mean"] * 8
    np.testing.assert_allclose(rows["criticflow/oracle/continuations"], 3 * lengths)
    assert (rows["criticflow/oracle/tokens"] > rows["criticflow/oracle/continuations"]).all()
    assert (rows["criticflow/oracle/standard_error"] > 0).all()
    assert (rows["timing_s/oracle"] > 0).all()
    assert (rows["actor/grad_norm"] > 0).all()
    assert "critic/vf_loss" not in rows
    again = whole_runs.train(folder, "oracle-again", "oracle")
    for name in ("1", "2"):
        paths = (one.checkpoints / f"global_step_{name}" / "actor" for one in (run, again))
        first, second = (storages(path) for path in paths)
        assert first == second, name
