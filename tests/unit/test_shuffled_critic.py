"""A critic's values exchanged between the trajectories of a step: who lends to whom."""

from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_module

from criticflow.config import Run
from criticflow.config.contrasts import differs_in
from criticflow.errors import UserError
from criticflow.report.description import describe
from criticflow.verl_plugin import settings
from criticflow.verl_plugin.reward_mask import uniform
from criticflow.verl_plugin.shuffled_critic import kept, lenders

KEYS = ["4-a-1_0_0", "4-b-1_0_0", "4-c-1_0_0", "4-d-1_0_0"]


def of_lengths(*lengths: int) -> np.ndarray:
    return np.arange(max(lengths)) < np.array(lengths)[:, None]


def circle(seed: int, step: int) -> list[int]:
    """The step's order, as the module's equation has it."""
    return sorted(range(4), key=lambda row: uniform(seed, step, f"values/{KEYS[row]}"))


def test_each_trajectory_has_the_values_of_the_next_in_the_order():
    a, b, c, d = circle(7, 4)
    rows = lenders(7, 4, KEYS, of_lengths(3, 3, 3, 3))
    expected = np.empty(4, dtype=int)
    expected[[a, b, c, d]] = [b, c, d, a]
    assert rows.tolist() == np.tile(expected[:, None], 3).tolist()
    assert kept(rows, of_lengths(3, 3, 3, 3)) == 0


def test_where_one_has_ended_the_next_longer_one_lends_and_the_longest_keeps_its_own():
    a, b, c, d = circle(7, 4)
    own = np.zeros((4, 4), dtype=bool)
    for row, length in ((a, 4), (b, 1), (c, 3), (d, 2)):
        own[row, :length] = True
    rows = lenders(7, 4, KEYS, own)
    assert rows[a].tolist() == [b, c, c, a]
    assert rows[b].tolist() == [c, b, b, b]  # what it has not written stays where it is
    assert rows[c].tolist() == [d, d, a, c]
    assert rows[d].tolist() == [a, a, d, d]
    assert kept(rows, own) == pytest.approx(1 / 10)


def test_observations_stay_and_lend_nothing():
    own = of_lengths(3, 3, 3, 3)
    own[1, 1] = False  # read by the model
    own[3] = False  # verl filled the batch up
    rows = lenders(0, 1, KEYS, own)
    assert rows[1, 1] == 1 and rows[3].tolist() == [3, 3, 3]
    assert 3 not in rows[:3]
    assert sorted(rows[[0, 2], 1]) == [0, 2] and rows[0, 1] == 2
    for token in (0, 2):
        assert sorted(rows[:3, token]) == [0, 1, 2]


def test_positions_keep_the_distribution_of_their_values():
    rng = np.random.default_rng(0)
    own = rng.random((9, 20)) < 0.7
    values = rng.normal(size=own.shape)
    keys = [f"2-{number}-1_0_0" for number in range(9)]
    rows = lenders(1, 2, keys, own)
    given = np.take_along_axis(values, rows, axis=0)
    for token in range(20):
        there = own[:, token]
        assert sorted(given[there, token]) == sorted(values[there, token])
        assert (given[~there, token] == values[~there, token]).all()
        assert there.sum() == 1 or (given[there, token] != values[there, token]).all()


def test_the_order_is_that_of_seed_step_and_trajectories_alone():
    own = of_lengths(2, 3, 3, 1)
    there = lenders(3, 5, KEYS, own)
    np.random.seed(0)
    back = lenders(3, 5, KEYS[::-1], own[::-1])
    assert (3 - back[::-1] == there).all()
    orders = {tuple(circle(seed, step)) for seed in range(4) for step in range(4)}
    assert len(orders) > 8


RUN = {"model": "m", "task": "t"}


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        ({"from": "cold", "shuffle": True}, "shuffle needs freeze"),
        ({"constant": 0.0, "freeze": True, "shuffle": True}, "leave constant and oracle out"),
        ({"oracle": {}, "freeze": True, "shuffle": True}, "leave constant and oracle out"),
    ],
)
def test_what_cannot_be_is_refused(critic, message):
    with pytest.raises(ValueError, match=message):
        Run(**RUN, critic=critic)


def test_it_differs_from_the_critic_itself_and_from_a_constant_in_the_source_alone():
    shuffled = Run(**RUN, critic={"from": "cold", "freeze": True, "shuffle": True})
    frozen = Run(**RUN, critic={"from": "cold", "freeze": True})
    constant = Run(**RUN, critic={"constant": 0.0, "freeze": True})
    assert differs_in(shuffled, frozen) == ["critic source"] == differs_in(shuffled, constant)
    assert "frozen, its values exchanged between trajectories" in describe(shuffled)
    assert "exchanged" not in describe(frozen)


def verl(*overrides: str):
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        return compose("criticflow_trainer", overrides=["data.seed=5", *overrides])


def test_verls_side_has_a_seed_of_its_own_and_refuses_what_cannot_be():
    on, frozen = "critic.shuffle_values=true", "critic.freeze=true"
    assert settings.shuffle_seed(verl()) is None
    assert settings.shuffle_seed(verl(on, frozen)) == 5
    assert settings.shuffle_seed(verl(on, frozen, "critic.shuffle_seed=2")) == 2
    with pytest.raises(UserError, match=r"needs critic\.freeze=true"):
        settings.check(verl(on))
    for other in ("critic.constant=0.0", "critic.oracle_continuations=2"):
        with pytest.raises(UserError, match="takes the values of a critic"):
            settings.check(verl(on, frozen, other))
