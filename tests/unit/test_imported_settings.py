"""Which settings of an imported run count as those of the study."""

from __future__ import annotations

from criticflow.planning.imports import digest


def test_a_setting_that_an_export_does_not_know_yet_counts_as_null():
    old = {"run": {"critic": {"freeze": True, "constant": 0.0}, "random_reward": None}}
    new = {"run": {"critic": {"freeze": True, "constant": 0.0, "oracle": None}}}
    asked = {"run": {"critic": {"freeze": True, "constant": 0.0, "oracle": {"continuations": 8}}}}
    assert digest(old) == digest(new) != digest(asked)
    assert digest(old) != digest({"run": {"critic": {"freeze": True, "constant": False}}})
