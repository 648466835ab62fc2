"""When training stops between two steps."""

from __future__ import annotations

import time

from criticflow.verl_plugin.stopping import MARGIN, STOP, EarlyStop


def test_it_goes_on_until_it_is_asked_to_stop(tmp_path):
    early = EarlyStop(tmp_path)
    assert early.reason() is None and early.reason() is None
    (tmp_path / STOP).touch()
    assert early.reason() == "as it was asked to"


def test_the_first_step_of_an_attempt_is_always_made(tmp_path):
    (tmp_path / STOP).touch()
    assert EarlyStop(tmp_path).reason() is None


def test_slurms_time_limit_leaves_room_for_a_checkpoint(tmp_path, monkeypatch):
    early = EarlyStop(tmp_path)
    early.reason()
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + MARGIN + 60)))
    assert early.reason() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + MARGIN - 10)))
    assert early.reason() == "because Slurm's time limit is near"
