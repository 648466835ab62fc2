"""A retriever behind HTTP that a training starts for itself (``search.service`` without ``url``).

One process holds the index, and the workers of the rollouts ask it: where there are many of them,
or the index is large. It listens on loopback, on a free port, wants a token that this training has
alone, and ends with the training, however that ends.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from criticflow.config import Service
from criticflow.errors import UserError
from criticflow.logs import progress
from criticflow.retrieval.client import ServiceRetriever
from criticflow.retrieval.protocol import TOKEN
from criticflow.runtime.processes import STOP_SECONDS, die_with_parent

START_SECONDS = 600.0
"""In which a retriever has to answer; the index of a large corpus is read from a disk first."""
CHECK_SECONDS = 5.0
"""For one answer while it starts."""


@dataclass(frozen=True)
class OwnRetriever:
    """A running retriever.

    Attributes:
        url: its address.
        token: what requests must show.
        process: its process.
        log: what it says.
    """

    url: str
    token: str
    process: subprocess.Popen
    log: Path

    def check(self) -> None:
        """Raise :class:`UserError` if its process has ended."""
        if (code := self.process.poll()) is not None:
            raise UserError(
                f"the retriever of this training ended with exit code {code}{self._see}"
            )

    @property
    def _see(self) -> str:
        return f": see {self.log}; a retry, or the same command, goes on from the last checkpoint"


@contextmanager
def own_retriever(
    corpus: Path, log: Path, start_seconds: float = START_SECONDS
) -> Iterator[OwnRetriever]:
    """A retriever over a corpus directory for the length of a block, answering when it begins.

    Args:
        corpus: the directory.
        log: its output is appended there.

    Raises:
        UserError: it ended, or does not answer in time.
    """
    # The socket listens from here on: the port is known, and nobody else can take it meanwhile.
    with socket.create_server(("127.0.0.1", 0)) as listening, open(log, "ab") as output:
        token = secrets.token_hex(16)
        command = [sys.executable, "-m", "criticflow", "retriever"]
        process = subprocess.Popen(
            [*command, "--corpus", str(corpus), "--socket", str(listening.fileno())],
            env=os.environ | {TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # a signal to the training lets it save first
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    retriever = OwnRetriever(url, token, process, log)
    try:
        _wait(retriever, time.monotonic() + start_seconds)
        yield retriever
    finally:
        _end(process)


def _wait(retriever: OwnRetriever, deadline: float) -> None:
    service = Service(url=retriever.url, timeout_seconds=CHECK_SECONDS, retries=0)
    client = ServiceRetriever(service, retriever.token)
    while True:
        retriever.check()
        try:
            health = client.check()
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
            continue
        progress(f"retriever of {health['documents']} documents at {retriever.url}")
        return


def _end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
