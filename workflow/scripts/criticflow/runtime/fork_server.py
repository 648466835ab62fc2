"""A fork server: Python programs start as forks of a process that has imported their libraries.

A training on one machine is about ten Python processes, and each would spend several seconds of a
core on importing torch, transformers and vLLM. Here the training imports them once and forks a
server, which does nothing but fork. Others then start Python programs through ``fork_client.py``,
which takes the place of the interpreter: it hands its arguments, environment and open files to the
server and waits for the fork that becomes the program. (The fork server of ``multiprocessing``
runs functions, not programs.)

    training -+- server -+- worker
              |          +- worker, ...
              +- Ray's daemons -+- client
                                +- client, ...

A fork is safe only where no other thread may hold a lock, so the server has one thread
(:func:`single_threaded`). The server is killed when the training ends, and its forks are killed
when the server ends (``PR_SET_PDEATHSIG``): all of them stay descendants of the training.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import setproctitle

from criticflow.collection import collect_as_usual
from criticflow.runtime.processes import die_with_parent

CLIENT = Path(__file__).with_name("fork_client.py")
HEADER = 8
"""Bytes of the length in front of a request."""
TAKEN = b"+"
"""The server's first answer: the program will run here. The second is how it ended."""
MOST_FILES = 250
"""Open files that one message between two processes can carry."""
ABOVE = 1000
"""Where a fork puts its files before they get the numbers that they had in the client."""


@dataclass(frozen=True)
class Request:
    """A program to run: what an interpreter gets from the process that starts it.

    Args:
        argv: a file, or ``-c`` and code, and the program's arguments.
        env: all environment variables.
        cwd: working directory.
        files: numbers of the open files that come with the request, in that order.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    files: list[int]


def single_threaded() -> bool:
    """Whether this process has one thread, counting those that libraries started."""
    return len(os.listdir("/proc/self/task")) == 1


def start_fork_server(folder: Path, prepare: Callable[[], None] | None = None) -> Path:
    """Fork a server from this process, which has imported what the server's forks need.

    Args:
        folder: where its socket and its interpreter are; nobody else may enter it.
        prepare: what the server does first, while this process goes on: further imports. Programs
            wait for it, and start as ordinary ones where it leaves more than one thread.

    Returns:
        An executable that takes the place of ``python``. In a fork the function does not return: it
        raises ``SystemExit`` when the program has ended, so that the interpreter ends as usual.
        Callers must let it pass, and must not take it for the end of the training.

    Raises:
        RuntimeError: this process has more than one thread.
    """
    if not single_threaded():
        raise RuntimeError("a process with several threads cannot be forked safely")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "fork_server"))
    listener.listen(64)
    interpreter = folder / "python"
    interpreter.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -I -S "{CLIENT}" "{folder / "fork_server"}" "$@"\n',
        encoding="utf-8",
    )
    interpreter.chmod(0o700)
    sys.stdout.flush()
    sys.stderr.flush()
    training = os.getpid()
    if os.fork() == 0:
        die_with_parent(training)
        # What sets a process's title finds its place in memory by the environment, which is another
        # one in a fork, or, as Ray's own does, by a title that is the interpreter's path.
        setproctitle.setproctitle(sys.orig_argv[0])
        if prepare is not None:
            _prepare(prepare)
        gc.freeze()  # a collection in a fork would copy the pages of all that is there
        run(*_ForkServer(listener).serve())
    listener.close()
    return interpreter


def _prepare(prepare: Callable[[], None]) -> None:
    """Prepare the server, or end it."""
    try:
        prepare()
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)  # not as what the training would do next
    if not single_threaded():
        print("processes are not forked: a library has started a thread", flush=True)
        os._exit(1)


@dataclass(frozen=True)
class _Fork:
    pid: int
    pidfd: int
    client: socket.socket


class _ForkServer:
    """The loop of the server."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(listener, selectors.EVENT_READ)

    def serve(self) -> tuple[Request, list[int]]:
        """Fork for each client until the training ends; returns in the forks alone."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the training decides when to end
        while True:
            try:
                for key, _ in self.waiting.select():
                    if key.data is not None:
                        self._ended(key.data, lost_client=key.fileobj is key.data.client)
                    elif (program := self._fork(self.listener.accept()[0])) is not None:
                        return program
            except Exception:  # noqa: BLE001
                traceback.print_exc()
                os._exit(1)  # the clients end with it; what runs is killed

    def _fork(self, client: socket.socket) -> tuple[Request, list[int]] | None:
        try:
            program = receive(client)
        except ConnectionError:
            client.close()
            return None
        with suppress(OSError):  # a client that has gone meanwhile is met below
            client.sendall(TAKEN)
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            die_with_parent(server)
            self._close()
            client.close()
            return program
        for file in program[1]:
            os.close(file)
        fork = _Fork(pid, os.pidfd_open(pid), client)
        self.waiting.register(fork.pidfd, selectors.EVENT_READ, fork)
        self.waiting.register(client, selectors.EVENT_READ, fork)
        return None

    def _close(self) -> None:
        for key in list(self.waiting.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            else:
                key.fileobj.close()
        self.waiting.close()

    def _ended(self, fork: _Fork, lost_client: bool) -> None:
        """Tell the client how its program ended; a program whose client has gone is killed."""
        if fork.client.fileno() < 0:
            return  # the end of the program and of its client were seen together
        if lost_client:
            signal.pidfd_send_signal(fork.pidfd, signal.SIGKILL)
        _, status = os.waitpid(fork.pid, 0)
        self.waiting.unregister(fork.pidfd)
        self.waiting.unregister(fork.client)
        os.close(fork.pidfd)
        with suppress(OSError), fork.client:
            fork.client.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def receive(client: socket.socket) -> tuple[Request, list[int]]:
    """A client's request and the open files that came with it.

    Raises:
        ConnectionError: the client ended before it had sent all.
    """
    header, files, _, _ = socket.recv_fds(client, HEADER, MOST_FILES)
    body = bytearray()
    while len(header) < HEADER or len(body) < int.from_bytes(header):
        part = client.recv(1 << 16)
        if not part:
            raise ConnectionError("a client ended before it had sent its request")
        body += part
    return Request(**json.loads(bytes(body))), list(files)


def _take_over(request: Request, files: Sequence[int]) -> None:
    """Give this process the open files, environment and directory of the client."""
    lifted = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, ABOVE) for file in files]
    for file in files:
        os.close(file)
    for number, file in zip(request.files, lifted, strict=True):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # When a worker has ended Ray kills the process group that it was in, which must not be that of
    # whoever started the server.
    os.setpgid(0, 0)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    # All as in a new interpreter; two forks must not draw the same numbers. torch starts from a
    # constant by itself.
    collect_as_usual()
    random.seed()
    np.random.seed()


def run(request: Request, files: Sequence[int]) -> NoReturn:
    """Run the program in this process, and leave it as an interpreter would."""
    _take_over(request, files)
    program, *arguments = request.argv
    if program == "-c":
        code, *arguments = arguments
        sys.argv, sys.path[0] = ["-c", *arguments], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    else:
        sys.argv, sys.path[0] = [program, *arguments], str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
    sys.exit(0)
