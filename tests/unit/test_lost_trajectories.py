"""How many trajectories a step lacks, and when that is too many."""

from __future__ import annotations

import pytest

from criticflow.errors import UserError
from criticflow.verl_plugin.lost_trajectories import Tolerance

PROMPTS = ["1-a-1", "1-b-1"]
KEYS = [
    "1-a-1_0_0",
    "1-a-1_1_0",
    "1-b-1_0_0",
    "1-b-1_1_0",
    "1-b-1_1_1",
]  # one answered in two turns


def lost(share: float, keys: list[str], partition: str = "train") -> int:
    tolerance = Tolerance(share, {"train": 2, "val": 1})
    return tolerance.check(partition, PROMPTS, [*keys, "0-old-1_0_0"], ["E: why", "E: why"])


def test_a_whole_step_has_lost_nothing():
    assert lost(0.0, KEYS) == 0
    assert lost(0.0, [KEYS[0], KEYS[2]], "val") == 0


@pytest.mark.parametrize("share", [0.0, 0.24])
def test_more_than_the_share_is_an_error_with_the_rollouts_own(share):
    with pytest.raises(UserError) as error:
        lost(share, KEYS[1:])
    assert str(error.value) == (
        f"1 of 4 trajectories of a step were lost (train.lost_trajectories allows a share of "
        f"{share:g}): E: why"
    )


def test_a_share_may_be_lost_and_is_counted():
    assert lost(0.25, KEYS[1:]) == 1
    assert lost(0.75, KEYS[:1]) == 3


def test_a_step_without_any_trajectory_is_too_few_for_every_share():
    with pytest.raises(UserError, match="4 of 4 trajectories"):
        lost(0.99, [])


def test_responses_of_a_validation_are_no_fewer_than_its_problems():
    with pytest.raises(UserError, match="1 of 2 responses of a validation were lost"):
        lost(0.0, KEYS[:1], "val")
