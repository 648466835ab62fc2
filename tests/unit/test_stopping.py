"""When training stops between two steps."""

from __future__ import annotations

import json
import time

import pytest

from criticflow.checkpoint.retention import TRACKER
from criticflow.training.endings import own_error, stopped_early
from criticflow.training.log import next_attempt
from criticflow.verl_plugin.stopping import LAST_SAVE, MARGIN, STOP, EarlyStop


def test_it_goes_on_until_it_is_asked_to_stop(tmp_path):
    early = EarlyStop(tmp_path)
    assert early.reason() is None and early.reason() is None
    (tmp_path / STOP).touch()
    assert early.reason() == "as it was asked to"
    assert (tmp_path / STOP).read_text() == "as it was asked to"


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
    assert (tmp_path / STOP).read_text() == "because Slurm's time limit is near"


def stops(early, seconds_left, monkeypatch) -> bool:
    """Whether it stops before a step, all steps so far having taken no time."""
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + seconds_left)))
    return early.reason() is not None


def test_a_large_checkpoint_is_begun_earlier(tmp_path, monkeypatch):
    early = EarlyStop(tmp_path, checkpoint_bytes=48 * 10**9)  # 8 minutes at 100 MB/s
    assert not early.reason()
    assert not stops(early, MARGIN + 900, monkeypatch)
    assert stops(early, MARGIN + 600, monkeypatch)


def test_how_early_follows_from_the_last_checkpoint_of_any_attempt(tmp_path, monkeypatch):
    checkpoint = tmp_path / "global_step_1" / "actor"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.pt").write_bytes(b"x" * 100)
    early = EarlyStop(tmp_path, checkpoint_bytes=48 * 10**9)
    early.saved(checkpoint.parent, seconds=40.0)
    assert json.loads((tmp_path / LAST_SAVE).read_text()) == {"bytes": 100, "seconds": 40.0}
    for attempt in (early, EarlyStop(tmp_path)):
        (tmp_path / STOP).unlink(missing_ok=True)
        assert not attempt.reason()
        assert not stops(attempt, MARGIN + 80, monkeypatch)
        assert stops(attempt, MARGIN + 50, monkeypatch)


@pytest.mark.parametrize(
    ("stop", "saved", "made", "code", "how"),
    [
        ("why", 3, 3, 1, "saved and stopped, why: a retry, or the same command, goes on from"),
        ("", 2, 3, 137, "was asked to stop, and ended by signal before it had saved: a retry"),
        ("why", 2, 3, 1, None),  # the checkpoint could not be written
        ("", 2, 3, 1, None),  # it failed after it was asked
        (None, 2, 3, 1, None),
        ("why", 4, 4, 1, None),  # after the last step
    ],
    ids=["saved", "killed", "not saved", "failed when asked", "failed", "failed at the end"],
)
def test_whether_a_training_that_ended_early_was_to_stop(tmp_path, stop, saved, made, code, how):
    if stop is not None:
        (tmp_path / STOP).write_text(stop)
    (tmp_path / TRACKER).write_text(str(saved))
    rows = [json.dumps({"step": step, "data": {}}) for step in range(1, made + 1)]
    next_attempt(tmp_path / "metrics").write_text("\n".join(rows))
    said = stopped_early(tmp_path, 4, code)
    assert said is None if how is None else said.startswith(how)


def test_a_trainings_own_error_is_that_of_its_newest_attempt(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: of yesterday\n", encoding="utf-8")
    start = log.stat().st_size
    assert own_error(log, start) is None
    with open(log, "a", encoding="utf-8") as stream:
        stream.write("(WorkerDict pid=34) error: a worker's\nerror: 3 of 8 were lost\nRay: bye\n")
    assert own_error(log, start) == "3 of 8 were lost"
