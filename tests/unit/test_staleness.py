"""A critic's new error is its old one, the drift of values and the shift of states."""

from __future__ import annotations

import numpy as np
import pytest

import markov_chain as chain
from criticflow.stats import staleness


def moved(states, by: float):
    return states.assign(v_mc=states["v_mc"] + by)


def test_parts_add_up_and_know_what_moved():
    old, _, values = chain.table(64, 32, 0)
    new, _, new_values = chain.table(64, 32, 1)
    # The new actor scores 0.2 more from everywhere: values drift by 0.2, states do not shift.
    found = staleness.drift_and_shift(old, moved(old, 0.2), moved(new, 0.2), values, new_values)
    assert found["drift"]["low"] <= 0.04 <= found["drift"]["high"]
    assert found["drift"]["low"] > 0.02
    assert found["shift"]["low"] <= 0 <= found["shift"]["high"]
    total = sum(found[part]["value"] for part in ("old", "drift", "shift"))
    assert found["new"]["value"] == pytest.approx(total)
    # The critic is wrong by 0.3 where only the new actor goes; nothing else has changed.
    found = staleness.drift_and_shift(old, old, new, values, new_values + 0.3)
    assert found["drift"] == {"value": 0, "low": 0, "high": 0}
    assert found["shift"]["low"] <= 0.09 <= found["shift"]["high"]


def test_drift_covers():
    hits = 0
    for seed in range(200):
        old, _, values = chain.table(32, 16, 10 + seed)
        again, _, _ = chain.table(32, 16, 10 + seed)
        fresh = np.random.default_rng(seed).normal(0, again["v_se"])  # the new truth's own noise
        late = again.assign(v_mc=values + 0.1 + fresh)
        found = staleness.drift_and_shift(old, late, old, values, values)
        hits += found["drift"]["low"] <= 0.01 <= found["drift"]["high"]
    assert 0.91 <= hits / 200 <= 0.99


def test_a_critic_that_is_exact_for_the_old_actor_has_the_drift_and_shift_that_follow():
    """Both are sums over the chain: of squared differences of the two actors' values."""
    new = chain.actor(0.75)
    moved = (chain.EXACT - new.exact)[: chain.STEPS] ** 2
    known = {"old": 0.0, "drift": np.sum(chain.visits() * moved)}
    known["new"] = np.sum(chain.visits(new) * moved)
    known["shift"] = known["new"] - known["drift"]
    assert known["drift"] > 0.05 and known["shift"] < -0.01
    draws, hits, found = 200, dict.fromkeys(known, 0), {name: [] for name in known}
    for seed in range(50_000, 50_000 + draws):
        old, _, values = chain.table(64, 32, seed)
        drifted, _, _ = chain.table(64, 32, seed, goes_on=new)
        later, _, new_values = chain.table(64, 32, 40_000 + seed, came=new, goes_on=new)
        row = staleness.drift_and_shift(old, drifted, later, values, new_values)
        for name, exact in known.items():
            found[name].append(row[name]["value"])
            hits[name] += row[name]["low"] <= exact <= row[name]["high"]
    for name, exact in known.items():
        error = np.std(found[name]) / np.sqrt(draws)
        assert abs(np.mean(found[name]) - exact) < 4 * error
        assert 0.90 <= hits[name] / draws <= 0.99, name


def test_other_states_or_problems_are_refused():
    old, _, values = chain.table(8, 8, 2)
    with pytest.raises(ValueError, match="in their order"):
        staleness.drift_and_shift(old, old.iloc[::-1], old, values, values)
    few = old[old["prompt_index"] > 0]
    with pytest.raises(ValueError, match="same problems"):
        staleness.drift_and_shift(old, old, few, values, values[old["prompt_index"] > 0])
