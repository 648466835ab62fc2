"""The end of a log after a training job was ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from criticflow.errors import UserError
from criticflow.training import watchdog
from criticflow.training.watchdog import Watchdog, essential_processes, repeat_traceback

LOG = """\
(EngineServer pid=12) Traceback (most recent call last):
(EngineServer pid=12)   File "old.py", line 1, in old
(EngineServer pid=12) OldError: mended long ago
(WorkerDict pid=34) Traceback (most recent call last):
(EngineServer pid=12) a line of another worker
(WorkerDict pid=34)   File "engine.py", line 7, in step
(WorkerDict pid=34) ValueError: out of cache
Traceback (most recent call last):
  File "train.py", line 3, in main
KeyboardInterrupt
"""


def test_the_last_lines_are_the_reason_and_the_workers_own_traceback(tmp_path):
    log = tmp_path / "log"
    log.write_text(LOG, encoding="utf-8")
    repeat_traceback(log, "VLLM::EngineCore has ended")
    assert log.read_text(encoding="utf-8") == LOG + (
        "\nended: VLLM::EngineCore has ended\n"
        "(WorkerDict pid=34) Traceback (most recent call last):\n"
        '(WorkerDict pid=34)   File "engine.py", line 7, in step\n'
        "(WorkerDict pid=34) ValueError: out of cache\n"
    )


def test_without_a_traceback_there_is_the_reason_alone(tmp_path):
    log = tmp_path / "log"
    log.write_text("(WorkerDict pid=34) all is well\n", encoding="utf-8")
    repeat_traceback(log, "no step ended")
    assert log.read_text(encoding="utf-8").endswith("all is well\n\nended: no step ended\n")


class Clock:
    """The system's clocks, to be set by hand."""

    def __init__(self) -> None:
        self.awake = self.wall = 1e9

    def monotonic(self) -> float:
        return self.awake

    def time(self) -> float:
        return self.wall

    def passes(self, seconds: float, *, asleep: float = 0.0) -> None:
        self.awake += seconds
        self.wall += seconds + asleep


def test_no_progress_for_too_long_is_an_error(monkeypatch):
    monkeypatch.setattr(watchdog, "time", clock := Clock())
    steps = []
    watching = Watchdog(newest=lambda: len(steps), stall=60)
    for seconds in (50, 9):
        clock.passes(seconds)
        watching()
    steps.append("one")
    watching()
    for seconds in (50, 12):
        clock.passes(seconds)
        watching()
    clock.passes(59)
    with pytest.raises(UserError, match="no step ended in 1 minutes"):
        watching()


def test_a_machine_that_slept_has_lost_no_time(monkeypatch):
    monkeypatch.setattr(watchdog, "time", clock := Clock())
    watching = Watchdog(newest=lambda: None, stall=60)
    clock.passes(10)
    watching()
    clock.passes(10, asleep=3600)
    watching()


def test_a_forked_child_is_not_taken_for_its_parent(tmp_path):
    code = "import os, time\nos.fork()\ntime.sleep(60)\n"
    program = tmp_path / "raylet"
    program.symlink_to(sys.executable)
    parent = subprocess.Popen([program, "-c", code])
    try:
        while len(psutil.Process(parent.pid).children()) != 1:
            time.sleep(0.01)
        assert [one.pid for one in essential_processes()] == [parent.pid]
    finally:
        for process in [*psutil.Process(parent.pid).children(), parent]:
            process.kill()
        parent.wait()


def start(folder: Path, title: str) -> subprocess.Popen[bytes]:
    """A process that is called so, as Ray's are."""
    program = folder / title
    program.symlink_to(sys.executable)
    return subprocess.Popen([program, "-c", "import time; time.sleep(60)"])


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """A worker and the controller of a job, which a watchdog knows, and the clock."""
    monkeypatch.setattr(watchdog, "time", clock := Clock())
    watching = Watchdog(newest=lambda: None, stall=1e6)
    started = [start(tmp_path, title) for title in ("ray::WorkerDict", "ray::TaskRunner.run")]
    while len(essential_processes()) != 2:
        time.sleep(0.01)
    watching()
    clock.passes(10)
    yield *started, watching, clock
    for process in started:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_a_job_that_goes_on_without_a_process_is_ended(jobs):
    worker, _, watching, clock = jobs
    end(worker)
    watching()
    clock.passes(31)
    with pytest.raises(UserError, match="WorkerDict has ended, and training waits for it in vain"):
        watching()


def test_a_job_whose_controller_has_ended_has_time_to_shut_down(jobs):
    worker, controller, watching, clock = jobs
    end(worker)
    watching()
    end(controller)
    clock.passes(200)
    watching()
    clock.passes(200)
    with pytest.raises(UserError, match="WorkerDict has ended, and training waits for it in vain"):
        watching()
