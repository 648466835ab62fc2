"""A child process that takes everything it started with it when it ends.

Ray daemons and vLLM engines start sessions of their own, and go on when their parent is killed. So
a command runs under a *warden*: a small process that adopts every orphan below it
(``PR_SET_CHILD_SUBREAPER``) and ends all of them when the command has ended, when it is told to
stop, or when one of the processes that wanted the command has ended, even by SIGKILL.

    caller (a rule's script) -- warden -- command -- Ray, vLLM, workers, ...

Linux only, as is everything that needs it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

STOP_SECONDS = 10.0
"""Seconds that a command has to end by itself after a signal."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SHELLS = {"sh", "bash", "dash"}


def run_owned(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path | str,
    *,
    watch: Callable[[], None] | None = None,
    ask_to_stop: Callable[[], None] | None = None,
    grace: float = STOP_SECONDS,
    pass_fds: Sequence[int] = (),
) -> int:
    """Run a command, output appended to ``log``, and return when it and all it started have ended.

    SIGINT that arrives meanwhile ends the command. So does SIGTERM, but it leaves ``grace`` seconds
    for a good end; a second signal ends it then. Must be called from the main thread.

    Args:
        argv: the command.
        env: its whole environment.
        watch: called about twice a second while the command runs; what it raises ends the command
            and is raised again.
        ask_to_stop: how the command is told of SIGTERM, instead of by SIGTERM.
        grace: seconds between that and the end of whatever is left.
        pass_fds: file descriptors that the command inherits.

    Returns:
        The exit code; 128 + n when the command was ended by signal n.
    """
    wanting = ",".join(str(pid) for pid in [os.getpid(), *_wanting_ancestor()])
    warden_argv = [sys.executable, "-m", "criticflow.runtime.processes", wanting, str(grace), *argv]
    with open(log, "ab") as output:
        warden = subprocess.Popen(
            warden_argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=list(pass_fds),
            start_new_session=True,  # a terminal's Ctrl-C reaches the caller, which passes it on
        )
    stopped_by: list[int] = []
    deadline = float("inf")

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal deadline
        if ask_to_stop is not None and signum == signal.SIGTERM and deadline == float("inf"):
            deadline = time.monotonic() + grace
            ask_to_stop()
            return
        warden.send_signal(signal.SIGINT if stopped_by else signum)
        stopped_by.append(signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while warden.poll() is None:
            if watch is not None:
                watch()
            if time.monotonic() > deadline:
                warden.send_signal(signal.SIGINT)
            try:
                warden.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if warden.poll() is None:
            warden.send_signal(signal.SIGINT)
            warden.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped_by:
        return 128 + stopped_by[0]
    return warden.returncode if warden.returncode >= 0 else 128 - warden.returncode


def signal_jobs(number: int) -> None:
    """Send a signal to the scripts that this process (Snakemake) runs, not to the shells between.

    Scripts share Snakemake's process group; what they own is in sessions of its own and is ended
    by them.
    """
    ours = os.getpgrp()
    for process in psutil.Process().children(recursive=True):
        try:
            if os.getpgid(process.pid) == ours and process.name() not in _SHELLS:
                process.send_signal(number)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue  # it has ended meanwhile


def stop_jobs_on_signals() -> None:
    """For Snakemake's own process: SIGINT and SIGTERM end its running jobs, then itself.

    By itself Snakemake waits for running jobs when it alone gets a signal (``kill PID``). SIGINT
    (Ctrl-C) ends jobs at once, SIGTERM lets a training job save first.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: signal_jobs(number))
        signal_jobs(signum)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _wanting_ancestor() -> list[int]:
    """The nearest ancestor that is no shell (Snakemake, for a rule's script), if there is one."""
    for parent in psutil.Process().parents():
        if parent.pid > 1 and parent.name() not in _SHELLS:
            return [parent.pid]
    return []


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when ``parent``, which started it, has ended."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


class _Warden:
    """The loop of the process between the caller and the command."""

    def __init__(self, wanting: Sequence[int], grace: float, argv: Sequence[str]) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.grace = grace
        self.signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: self.signals.append(number))
        self.wanting = [psutil.Process(pid) for pid in wanting]
        self.status: int | None = None
        self.command = subprocess.Popen(
            list(argv),
            process_group=0,
            close_fds=False,  # what the caller passed on; the rest is not inheritable
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )

    def run(self) -> int:
        self._wait(lambda: self.signals or not all(map(alive, self.wanting)), float("inf"))
        if self.status is None and self.signals[:1] == [signal.SIGTERM]:
            self.command.send_signal(signal.SIGTERM)
            self._wait(lambda: signal.SIGINT in self.signals, self.grace)
        if self.status is None:
            self.command.send_signal(signal.SIGINT)
            self._wait(lambda: False, STOP_SECONDS)
        for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 30.0)):
            self._signal_all(number)
            if self._reap_until(lambda: not descendants(), patience):
                break
            # Processes that were started meanwhile are ended in the next round.
        if self.status is None:
            return 128 + signal.SIGKILL
        code = os.waitstatus_to_exitcode(self.status)
        return code if code >= 0 else 128 - code

    def _wait(self, enough: Callable[[], object], seconds: float) -> None:
        """Until the command has ended, or there is enough reason not to wait for it."""
        self._reap_until(lambda: self.status is not None or enough(), seconds)

    def _signal_all(self, number: int) -> None:
        for process in descendants():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def _reap_until(self, done: Callable[[], object], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (finished := bool(done())) and time.monotonic() < deadline:
            time.sleep(0.1)
            self._reap()
        return finished

    def _reap(self) -> None:
        """Collect ended children: the command, and orphans adopted from it."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.command.pid:
                self.status = status


def descendants() -> list[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    _wanting, _grace, *_argv = sys.argv[1:]
    try:
        _warden = _Warden([int(pid) for pid in _wanting.split(",")], float(_grace), _argv)
    except psutil.NoSuchProcess:
        sys.exit(128 + signal.SIGTERM)  # the caller was killed before the command began
    sys.exit(_warden.run())
