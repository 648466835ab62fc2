"""Baselines that advantages of critics are compared with: by hand, and never their own judges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from criticflow.stats import advantage_audit, advantage_references, truth_table


def audited(lengths=(2, 3, 2), scores=4, seed=0):
    """Responses of these lengths to one problem each, with so many continuations a token."""
    trajectory = np.repeat(np.arange(len(lengths)), lengths)
    tokens = pd.DataFrame({"trajectory": trajectory, "prompt_index": 7 + trajectory})
    tokens["token"] = tokens.groupby("trajectory").cumcount()
    tokens["score"] = (trajectory % 2).astype(float)
    tokens.insert(0, "state", range(len(tokens)))
    drawn = np.random.default_rng(seed).integers(0, 2, (len(tokens), scores)).astype(float)
    continuations = pd.DataFrame(
        {"state": np.repeat(tokens["state"], scores), "score": drawn.ravel(), "length": 1}
    )
    return (tokens, continuations), drawn


def test_values_by_hand():
    found, drawn = audited()
    mean = drawn.mean(1)
    assert advantage_references.constant(found) == pytest.approx(mean.mean())
    # Rows are the tokens 0 1, 0 1 2, 0 1: the third of the longest has no other like it.
    others = [mean[[2, 5]], mean[[3, 6]], mean[[0, 5]], mean[[1, 6]], mean[[0, 1, 5, 6]]]
    others += [mean[[0, 2]], mean[[1, 3]]]
    expected = [each.mean() for each in others]
    assert advantage_references.position(found) == pytest.approx(expected)
    # Each has the values of the next response that is as long; the end of the longest its own.
    exchanged = advantage_references.shuffled(found[0], np.arange(7.0))
    assert list(exchanged) == [2, 3, 5, 6, 4, 0, 1]


def test_no_continuation_is_on_both_sides():
    found, drawn = audited(scores=8)
    (_, judging), values = advantage_references.monte_carlo(found, 2)
    assert values == pytest.approx(drawn[:, :2].mean(1))
    assert truth_table.estimates(judging)["v_mc"].to_numpy() == pytest.approx(drawn[:, 2:].mean(1))
    (tokens, judging), values = advantage_references.prompt_mean(found)
    first = tokens["token"].to_numpy() == 0
    assert values == pytest.approx(np.repeat(drawn[first, ::2].mean(1), [2, 3, 2]))
    known = truth_table.estimates(judging)["v_mc"].reindex(tokens["state"]).to_numpy()
    assert known[first] == pytest.approx(drawn[first, 1::2].mean(1))
    assert known[~first] == pytest.approx(drawn[~first].mean(1))


def test_too_few_continuations_make_no_reference():
    found, _ = audited(scores=3)
    assert advantage_references.prompt_mean(found) is None
    assert advantage_references.monte_carlo(found, 2) is None
    assert advantage_references.monte_carlo(found, 1) is not None


def test_monte_carlo_errs_by_its_own_noise_alone():
    """At lambda 0 they err by the variance of k continuations, here and before the next token."""
    found, _ = audited([4] * 400, 32, 1)
    for k in (1, 4, 16):
        judged, values = advantage_references.monte_carlo(found, k)
        at_zero = advantage_audit.of_values(judged, values, 1.0)[1]
        assert at_zero["mse"]["value"] == pytest.approx(0.25 / k * 7 / 4, rel=0.15), k
