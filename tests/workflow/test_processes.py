"""Owned processes: whatever ends, nothing that was started stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from criticflow.runtime.processes import run_owned

# A child that starts a daemon as Ray does: forked twice, in a session of its own, deaf to SIGTERM.
DAEMON = """
import os, pathlib, signal, sys, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print("started", flush=True)
"""
CALLER = """
import os, sys
from criticflow.runtime.processes import run_owned
sys.exit(run_owned([sys.executable, "-c", sys.argv[1], *sys.argv[3:]], os.environ, sys.argv[2]))
"""


def wait_for(done: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(pid_file: Path) -> bool:
    pid = int(pid_file.read_text())
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def own(code: str, tmp_path: Path) -> int:
    argv = [sys.executable, "-c", DAEMON + code, str(tmp_path / "daemon")]
    return run_owned(argv, os.environ, tmp_path / "log")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)],
    ids=["success", "failure", "killed"],
)
def test_a_daemon_ends_with_the_command_that_started_it(tmp_path, code, exit_code):
    assert own(code, tmp_path) == exit_code
    assert not alive(tmp_path / "daemon")
    assert (tmp_path / "log").read_text() == "started\n"


@pytest.fixture
def caller(tmp_path) -> subprocess.Popen:
    """A process that owns a command with a daemon; both run until they are ended."""
    argv = [sys.executable, "-c", CALLER, DAEMON + "time.sleep(600)"]
    process = subprocess.Popen([*argv, str(tmp_path / "log"), str(tmp_path / "daemon")])
    wait_for((tmp_path / "daemon").exists)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_daemon_ends_when_the_caller_is_told_to_stop(tmp_path, caller, number, code):
    caller.send_signal(number)
    assert caller.wait(30) == code
    wait_for(lambda: not alive(tmp_path / "daemon"))


def test_a_daemon_ends_when_the_process_above_the_caller_is_killed(tmp_path):
    # Snakemake -- shell -- script: the shell and the script survive their Snakemake.
    argv = [sys.executable, "-c", CALLER, DAEMON + "time.sleep(600)"]
    argv += [str(tmp_path / "log"), str(tmp_path / "daemon")]
    above = "import subprocess, sys; subprocess.run(['bash', '-c', '\"$@\"; true', *sys.argv])"
    snakemake = subprocess.Popen([sys.executable, "-c", above, *argv])
    wait_for((tmp_path / "daemon").exists)
    below = psutil.Process(snakemake.pid).children(recursive=True)
    assert len(below) >= 4  # shell, caller, warden, command
    snakemake.kill()
    snakemake.wait()
    wait_for(lambda: not alive(tmp_path / "daemon"))
    psutil.wait_procs(below, timeout=20)
    assert not any(process.is_running() for process in below)


def test_a_watch_that_raises_ends_the_command(tmp_path):
    def watch() -> None:
        if (tmp_path / "daemon").exists():
            raise RuntimeError("seen enough")

    argv = [sys.executable, "-c", DAEMON + "time.sleep(600)", str(tmp_path / "daemon")]
    with pytest.raises(RuntimeError, match="seen enough"):
        run_owned(argv, os.environ, tmp_path / "log", watch=watch)
    assert not alive(tmp_path / "daemon")


def test_a_command_may_end_itself_on_sigterm(tmp_path):
    # As a trainer does that saves a checkpoint first.
    polite = (
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n"
        "    time.sleep(1); pathlib.Path(sys.argv[1] + '.saved').touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", CALLER, polite, str(tmp_path / "log"), str(tmp_path / "up")]
    process = subprocess.Popen(argv)
    wait_for((tmp_path / "up").exists)
    process.terminate()
    assert process.wait(30) == 143
    assert (tmp_path / "up.saved").exists()


ASKED = """
import os, pathlib, sys
from criticflow.runtime.processes import run_owned
flag = pathlib.Path(sys.argv[1])
wait = "import os, sys, time\\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.05)\\n"
argv = [sys.executable, "-c", sys.argv[3] or wait + "sys.exit(7)", str(flag)]
grace = float(sys.argv[4])
sys.exit(run_owned(argv, os.environ, sys.argv[2], ask_to_stop=flag.touch, grace=grace))
"""


@pytest.mark.parametrize(
    ("code", "grace", "exit_code"),
    [("", 60, 7), ("import time; time.sleep(600)", 1, 130)],
    ids=["it ends well", "its time is up"],
)
def test_a_command_that_is_asked_to_stop_has_time_to_end_well(tmp_path, code, grace, exit_code):
    argv = [sys.executable, "-c", ASKED, tmp_path / "flag", tmp_path / "log", code, str(grace)]
    process = subprocess.Popen(argv)
    wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == exit_code
    assert (tmp_path / "flag").exists()


def test_a_second_signal_ends_it_at_once(tmp_path):
    argv = [sys.executable, "-c", ASKED, tmp_path / "flag", tmp_path / "log"]
    process = subprocess.Popen([*argv, "import time; time.sleep(600)", "600"])
    wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) == 2)
    process.send_signal(signal.SIGTERM)
    wait_for((tmp_path / "flag").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
