"""One node of a training's Ray cluster: ``ray start --block``, until standard input ends.

``python -m criticflow.training.ray_node NODE``, with the fields of :class:`Node` as JSON. Slurm
starts it on each node (:mod:`criticflow.training.cluster`). Its standard input ends when the
training closes it, and also when the training or ``srun`` is killed, so nothing outlives either.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from criticflow.errors import UserError
from criticflow.runtime.processes import run_owned
from criticflow.training.forking import forking_python
from criticflow.verl_plugin import FORK, INTERPRETER

HEAD_SECONDS = 120.0
"""Seconds that a node waits for the head to listen."""
OUTPUT = Path("/dev/stdout")


@dataclass(frozen=True)
class Node:
    """What one node is told.

    Attributes:
        name: as Slurm calls it; Ray's tables name it likewise.
        head: address and port of Ray's head.
        address: its own; empty: that of ``interface``.
        interface: network interface of the cluster; empty: the one that has ``address``.
        is_head: whether the head runs here.
        cpus: logical CPUs, which verl's processes claim.
        gpus: logical GPUs; None: those that Ray finds.
        object_store: bytes of Ray's object store; None: Ray's choice.
    """

    name: str
    head: str
    address: str
    interface: str
    is_head: bool
    cpus: int
    gpus: int | None
    object_store: int | None

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class _Released(Exception):
    """Nobody needs this node any longer."""


def interface_address(interface: str) -> str:
    """The IPv4 address of a network interface of this machine.

    Raises:
        UserError: there is no such interface, or it has none.
    """
    found = psutil.net_if_addrs()
    for address in found.get(interface, ()):
        if address.family == socket.AF_INET:
            return address.address
    raise UserError(
        f"resources.interface: {socket.gethostname()} has no interface {interface!r} with an IPv4 "
        f"address; it has {', '.join(found)}"
    )


def interface_of(address: str) -> str:
    """The network interface of this machine that has an address.

    Raises:
        UserError: none has it.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return name
    raise UserError(
        f"{socket.gethostname()} has no interface with the address {address}, by which Slurm knows "
        "it: name the interface between the nodes (resources.interface)"
    )


def start_command(node: Node, address: str, folder: str) -> list[str]:
    """``ray start`` for a node.

    Args:
        address: the node's own.
        folder: for Ray's files, of this node and training alone.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    command += ["--node-ip-address", address, "--node-name", node.name, "--temp-dir", folder]
    command += ["--num-cpus", str(node.cpus), "--disable-usage-stats"]
    # Ports that the system chooses: several trainings may share a node.
    command += ["--min-worker-port", "0", "--max-worker-port", "0"]
    command += ["--dashboard-agent-listen-port", "0"]
    if node.gpus is not None:
        command += ["--num-gpus", str(node.gpus)]
    if node.object_store is not None:
        command += ["--object-store-memory", str(node.object_store)]
    if node.is_head:
        command += ["--head", "--port", node.head.rpartition(":")[2]]
        command += ["--include-dashboard", "false"]
        command += ["--ray-client-server-port", str(free_port(address))]
    else:
        command += ["--address", node.head]
    return command


def free_port(address: str) -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def wait_for_head(head: str, seconds: float = HEAD_SECONDS) -> None:
    """Return when something listens at ``head``.

    Raises:
        UserError: nothing does in that time.
    """
    host, _, port = head.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{socket.gethostname()} does not reach Ray's head at {head} ({error}): is "
                    "that the interface between the nodes (resources.interface)?"
                ) from error
        if _released():
            raise _Released
        time.sleep(0.5)


def _released() -> bool:
    ready, _, _ = select.select([0], [], [], 0)
    return bool(ready) and not os.read(0, 4096)


def _check() -> None:
    if _released():
        raise _Released


def run(node: Node, folder: str) -> int:
    """Be that node; the exit code.

    Args:
        folder: for files of this node and training alone.
    """
    address = node.address or interface_address(node.interface)
    interface = node.interface or interface_of(address)
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "VLLM_HOST_IP": address,
    }
    if os.environ.get(FORK):
        environment[INTERPRETER] = forking_python(Path(folder)) or sys.executable
    if not node.is_head:
        wait_for_head(node.head)
    return run_owned(start_command(node, address, folder), environment, OUTPUT, watch=_check)


def main() -> int:
    """Read the command line and be a node; the exit code."""
    folder, owner = tempfile.mkdtemp(prefix="criticflow-ray-"), os.getpid()
    try:
        return run(Node(**json.loads(sys.argv[1])), folder)
    except _Released:
        return 0
    except UserError as error:
        print(f"error: {error}", flush=True)
        return 2
    finally:
        if os.getpid() == owner:  # not a fork
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
