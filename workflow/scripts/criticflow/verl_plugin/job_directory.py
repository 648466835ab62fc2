"""A private directory of each training job on a machine, for its sockets and its token.

verl names the sockets for rollout weights after Ray's job id, in the system's temporary folder. The
first job of every Ray has the same id, so two jobs, each with a Ray of its own, would get each
other's weights. And all Rays of a user keep the token by which their processes know each other in
one file. So each job has a directory with a name of its own, which no other user may enter:

    /tmp/criticflow-xxxxxxxx/            made once, where the job starts: the token
    /tmp/criticflow-xxxxxxxx.R-L/socket  on each node, while replica R's rank L gets new weights

The name reaches all processes of the job in their environment (:data:`JOB`).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from criticflow.errors import UserError
from criticflow.files import own_directory

JOB = "CRITICFLOW_JOB_DIRECTORY"
"""Environment variable: the job's directory. Without it verl's names stay as they are."""
LONGEST = 100
"""Bytes of a socket's path; Linux takes 107."""

_NAMED = re.compile(r"ipc:///.*-replica-(\d+)-rank-(\d+)\.sock")


def check_temporary_folder() -> None:
    """Raise :class:`UserError` if the system's temporary folder has too long a path for sockets."""
    _check_length(Path(tempfile.gettempdir()) / "criticflow-xxxxxxxx.9999-9999" / "socket")


@contextmanager
def job_directory() -> Iterator[Path]:
    """Make the directory of a job that starts here, and remove all of it when the block ends.

    Only the process that made it removes it, not one that was forked within the block.
    """
    made, owner = Path(tempfile.mkdtemp(prefix="criticflow-")), os.getpid()  # mode 0700
    try:
        yield made
    finally:
        mine = (made, *made.parent.glob(f"{made.name}.*")) if os.getpid() == owner else ()
        for path in mine:
            shutil.rmtree(path, ignore_errors=True)


def token_file(job: Path) -> Path:
    """A new secret by which the processes of the job's own Ray know each other."""
    path = job / "ray_token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    return path


def private_handle(handle: str) -> str:
    """The address of a job's own socket, in place of verl's ``handle``.

    Raises:
        UserError: the path is too long for a socket.
    """
    named = _NAMED.fullmatch(handle)
    if named is None:
        raise ValueError(f"{handle}: not a name of verl 0.9.1 for a socket for rollout weights")
    replica, rank = named.groups()
    path = Path(f"{os.environ[JOB]}.{replica}-{rank}") / "socket"
    _check_length(path)
    return f"ipc://{path}"


@contextmanager
def socket_directory(handle: str) -> Iterator[None]:
    """Make the directory of a :func:`private_handle` on this node, and remove it afterwards.

    Raises:
        UserError: somebody else has made it.
    """
    folder = Path(handle.removeprefix("ipc://")).parent
    own_directory(folder)  # or take what a killed process of this job has left
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > LONGEST:
        raise UserError(
            f"{path} is {length} bytes long, and a socket's path may have {LONGEST}: set TMPDIR to "
            "a shorter path"
        )
