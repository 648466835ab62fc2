"""Whether a Ray cluster that somebody else has started has room for a training.

Asked before verl connects to it: verl waits without end for processors that no node has, and names
neither the node nor the setting where there are too few GPUs.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.training.overrides import RANK_CPUS, STORAGE_UNITS

CONNECT_SECONDS = 20.0
TELL_SECONDS = 60.0
"""Seconds that the cluster's head has to take a connection, and to tell of its nodes."""


def require_room(resources: Resources, env: Mapping[str, str]) -> None:
    """Raise :class:`UserError` if the Ray cluster of ``resources.ray_address`` cannot be asked, or
    if its nodes, idle, have not what a training takes.

    Args:
        env: environment of the training's processes, with the cluster's token.
    """
    address = str(resources.ray_address)
    if lacking := lacks(nodes_of(address, env), resources):
        raise UserError(f"resources.ray_address: the Ray cluster at {address} {lacking}")


def lacks(nodes: Sequence[Mapping[str, float]], resources: Resources) -> str | None:
    """What a cluster lacks for a training, and what to do; None: it has all.

    Args:
        nodes: ``GPU`` and ``CPU`` of every node, as Ray counts them.
    """
    ranks, asked = resources.ranks_per_node, resources.nodes
    had = "; ".join(f"{node['GPU']:g} GPUs and {node['CPU']:g} CPUs" for node in nodes) or "none"
    each = f"{asked} node{'s' * (asked > 1)} with {ranks} GPUs"
    key = "resources.gpu" if resources.gpu else "resources.cpu_ranks: ray start --num-gpus says so"
    large = [node for node in nodes if node["GPU"] >= ranks]
    if len(large) < asked:
        return (
            f"has no {each} and {RANK_CPUS * ranks} CPUs each (resources.nodes, {key}); it has: "
            f"{had}. Nodes that are started on demand have to be there before a training begins"
        )
    storage = STORAGE_UNITS * asked if resources.gpu else 1
    cpus = 1 + storage + RANK_CPUS * ranks * asked
    roomy = [node for node in large if node["CPU"] >= RANK_CPUS * ranks]
    if len(roomy) < asked or sum(node["CPU"] for node in nodes) < cpus:
        return (
            f"has too few CPUs: verl asks for {RANK_CPUS} beside each GPU on {each}, and for "
            f"{cpus} in all; it has: {had}. With fewer a training would wait for ever: ray start "
            "--num-cpus may say more than there are"
        )
    return None


def nodes_of(address: str, env: Mapping[str, str]) -> list[dict[str, float]]:
    """``GPU`` and ``CPU`` of every living node of the Ray cluster at ``address`` (HOST:PORT).

    Raises:
        UserError: nothing listens there, or it does not tell.
    """
    host, _, port = address.rpartition(":")
    try:
        # Ray's own client would try for minutes, and end the process with a stack of C++.
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"resources.ray_address: {address} is not reached from {socket.gethostname()} "
            f"({error}): it is the HOST:PORT of a Ray cluster's head, by default port 6379 (not "
            "the ray:// address of its clients), and has to run before a training begins"
        ) from error
    command = [sys.executable, "-m", "criticflow.training.ray_state", address]
    try:
        done = subprocess.run(
            command, env=dict(env), input="", capture_output=True, text=True, timeout=TELL_SECONDS
        )
        said = done.stderr.strip().splitlines()[-1:]
    except subprocess.TimeoutExpired:
        done, said = None, [f"no answer in {TELL_SECONDS:.0f} s"]
    if done is None or done.returncode:
        raise UserError(
            f"resources.ray_address: {address} tells nothing of its nodes ({' '.join(said)}): is "
            "it a Ray cluster's head, of the Ray that this environment has, and its token in "
            "RAY_AUTH_TOKEN_PATH?"
        )
    return json.loads(done.stdout.splitlines()[0])["capacities"]
