"""The Ray cluster of one training on several nodes of a Slurm job.

    first node: stage -- verl's first process (the cluster's client)
                   +---- srun -- slurmstepd -- ray_node -- ray start -- workers
                   +---- srun -- (another node) -- ray_node -- ray start -- workers

Each node runs a step of the job, ``ray_node``, which ends with its standard input. So the cluster
is gone when the training has ended, however it ended. Only this training knows its token.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.logs import progress
from criticflow.runtime import slurm
from criticflow.training.environment import OWN
from criticflow.training.overrides import OBJECT_STORE, node_cpus
from criticflow.training.ray_node import Node, free_port, interface_address
from criticflow.training.ray_room import require_room
from criticflow.training.watchdog import CONTROLLER, ESSENTIAL, LOST_SECONDS
from criticflow.verl_plugin import FORK, INTERPRETER
from criticflow.verl_plugin.job_directory import token_file

FOLDER = "ray"
"""Beside the checkpoints: what each node says, and the token while the cluster is up."""
JOIN_SECONDS = 240.0
"""Seconds that all nodes have to join."""
LEAVE_SECONDS = 30.0
"""Seconds that the nodes, and then the head, have to end all that runs there."""
NOTICED_SECONDS = 45.0
"""Seconds in which Ray notices that a node no longer answers (:data:`HEALTH`)."""
SILENT_SECONDS = 90.0
"""Seconds without an answer of Ray's head after which it is given up."""
HEALTH = {
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "12000",
    "RAY_health_check_failure_threshold": "3",
}
"""How Ray finds that a node no longer answers: within 45 s, so that one whose cores are all busy is
not taken for dead."""


class OwnRay:
    """What verl starts by itself on the one node of a training, among its own processes."""

    overrides: Sequence[str] = ()
    environment: Mapping[str, str] = MappingProxyType({})

    def __call__(self) -> None:
        """Nothing to look after: the watchdog sees its processes."""

    def explain(self) -> None:
        """Nothing to say of a training that failed."""


class Client(OwnRay):
    """A Ray cluster that somebody else started, and ends: nothing of it is looked after here.

    Its processes have not the environment of this one, so what verl's need is sent along.
    """

    def __init__(self, address: str, env: Mapping[str, str]) -> None:
        place = "ray_kwargs.ray_init"
        sent = {
            key: value for key, value in env.items() if key in OWN or os.environ.get(key) != value
        }
        self.overrides = [
            f"{place}.address={address}",
            *(f"+{place}.runtime_env.env_vars.{key}={json.dumps(sent[key])}" for key in sent),
        ]


class RayState:
    """What a cluster's tables say, as far as is known, from a process that looks (``ray_state``).

    Attributes:
        nodes: GPUs of every node that has joined and lives.
        actors: class and state of each of Ray's actors.
    """

    def __init__(self, address: str, log: Path) -> None:
        self.command = [sys.executable, "-m", "criticflow.training.ray_state", address]
        self.log = log
        self.environment: Mapping[str, str] = os.environ
        self.process: subprocess.Popen[bytes] | None = None
        self.begun = b""
        self.answered = time.monotonic()
        self.nodes: dict[str, float] = {}
        self.actors: list[tuple[str, str]] = []

    def look(self) -> None:
        """Take what has been told since the last look; start the process anew where it has ended,
        as it does while there is no cluster yet."""
        if self.process is None or self.process.poll() is not None:
            self.end()
            with open(self.log, "ab") as output:
                self.process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                )
            os.set_blocking(self.process.stdout.fileno(), False)
        while told := self.process.stdout.read():
            self.begun += told
        *lines, self.begun = self.begun.split(b"\n")
        if lines:
            found = json.loads(lines[-1])
            self.nodes, self.actors = found["nodes"], found["actors"]
            self.answered = time.monotonic()

    def silent(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - self.answered

    def end(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process, self.begun = None, b""


class Cluster(OwnRay):
    """A Ray cluster over several nodes that runs.

    Attributes:
        address: of Ray's head.
        token: variables by which Ray's processes know whoever uses it.
        folder: what each node says.
        fork: whether processes are forks of one on their node that has imported their libraries.
    """

    def __init__(self, address: str, token: dict[str, str], folder: Path, fork: bool) -> None:
        self.address, self.folder = address, folder
        self.environment = token | {FORK: ""}  # the client itself forks nothing
        self.overrides = [f"ray_kwargs.ray_init.address={address}"]
        if fork:  # Ray's shell puts in what each node has
            python = f"'\"${INTERPRETER}\"'"
            self.overrides.append(f"++ray_kwargs.ray_init.runtime_env.py_executable={python}")
        self.steps: dict[str, subprocess.Popen[bytes]] = {}
        self.state = RayState(address, folder / "state.log")
        self.lost: dict[str, float] = {}

    def log(self, node: str) -> Path:
        return self.folder / f"{node}.log"

    def __call__(self) -> None:
        """Look whether all of it is still there; called while the training runs.

        Raises:
            UserError: a node, or a process without which training cannot go on, has been lost.
        """
        with _told():
            self._check_nodes()
            self._check_actors(time.monotonic())

    def explain(self) -> None:
        """Look whether a training failed since a node was lost, as long as Ray may take to notice.

        Raises:
            UserError: one was.
        """
        deadline = time.monotonic() + NOTICED_SECONDS
        with _told():
            while time.monotonic() < deadline:
                self._check_nodes()
                time.sleep(1)

    def _check_nodes(self) -> None:
        self.check_steps()
        self.state.look()
        if gone := sorted(self.steps.keys() - self.state.nodes.keys()):
            raise UserError(f"node {gone[0]} is lost: Ray has no answer from it any more")
        if self.state.silent() > SILENT_SECONDS:
            head = next(iter(self.steps))
            raise UserError(f"Ray's head on {head} does not answer: see {self.log(head)}")

    def check_steps(self) -> None:
        """Raise :class:`UserError` if a node's step has ended."""
        for node, step in self.steps.items():
            if (code := step.poll()) is not None:
                raise UserError(
                    f"node {node} has left the training's Ray cluster (exit code {code}"
                    f"{self._said(node)}): see {self.log(node)}"
                )

    def _said(self, node: str) -> str:
        lines = self.log(node).read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return f", {errors[-1]}" if errors else ""

    def _check_actors(self, now: float) -> None:
        actors = [(f"ray::{name}", state) for name, state in self.state.actors]
        if (CONTROLLER, "ALIVE") not in actors:
            self.lost = {}  # not begun, or ending
            return
        dead = {title for title, state in actors if state == "DEAD" and title.startswith(ESSENTIAL)}
        self.lost = {title: self.lost.get(title, now) for title in dead}
        for title, since in self.lost.items():
            if now - since > LOST_SECONDS:
                raise UserError(f"{title} has ended, and training waits for it in vain")


@contextmanager
def _told() -> Iterator[None]:
    """Say an error at once: to end what is left of the cluster may take a minute."""
    try:
        yield
    except UserError as error:
        progress(f"{error}: ending what is left of the training")
        raise


def ray_for(
    resources: Resources, env: Mapping[str, str], place: Path
) -> AbstractContextManager[OwnRay]:
    """The Ray that a training uses, for the length of a block (see :func:`ray_cluster`).

    Raises:
        UserError: another's, and it has no room for the training (:mod:`.ray_room`).
    """
    if resources.ray_address:
        progress(
            f"training on the Ray cluster at {resources.ray_address}: nothing of it is started, "
            "watched or ended here"
        )
        require_room(resources, env)
        return nullcontext(Client(resources.ray_address, env))
    return nullcontext(OwnRay()) if resources.nodes == 1 else ray_cluster(resources, env, place)


@contextmanager
def ray_cluster(resources: Resources, env: Mapping[str, str], place: Path) -> Iterator[Cluster]:
    """A Ray cluster over the nodes of this Slurm job, for the length of a block.

    Args:
        resources: how many nodes, and what of each.
        env: environment of the training's processes.
        place: a directory that all nodes see.

    Raises:
        UserError: this is no Slurm job with so many nodes, or a node does not join.
    """
    addresses = slurm.node_addresses()
    if len(addresses) < resources.nodes:
        raise UserError(
            f"resources.nodes: {resources.nodes} nodes are asked for, and this is "
            + (f"a Slurm job with {len(addresses)}" if addresses else "no Slurm job")
            + ": submit the study with workflow/profiles/slurm, or set resources.nodes to 1"
        )
    here = slurm.node_name()
    names = [here, *(name for name in addresses if name != here)][: resources.nodes]
    own = interface_address(resources.interface) if resources.interface else addresses[here]
    if not own or own.startswith("127."):
        raise UserError(
            f"Slurm knows {here} by {own or 'a name without an address'}, which no other node "
            "reaches: name the interface between the nodes (resources.interface)"
        )
    folder = place / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(folder.resolve()))}
    cluster = Cluster(f"{own}:{free_port(own)}", token, folder, FORK in env)
    try:
        for name in names:
            node = Node(
                name,
                cluster.address,
                "" if resources.interface else addresses[name],
                resources.interface or "",
                name == here,
                node_cpus(resources),
                None if resources.gpu else resources.ranks_per_node,
                None if resources.gpu else OBJECT_STORE,
            )
            cluster.steps[name] = _start(node, {**env, **token, **HEALTH}, cluster.log(name))
        cluster.state.environment = {**os.environ, **token}
        _join(cluster, resources)
        yield cluster
    finally:
        _take_down(cluster)
        Path(token["RAY_AUTH_TOKEN_PATH"]).unlink(missing_ok=True)


def _start(node: Node, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "criticflow.training.ray_node", node.as_json()]
    with open(log, "wb") as output:
        return subprocess.Popen(
            slurm.step_command(node.name, command),
            env=slurm.outside_of_step(env),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C ends it by its standard input
        )


def _join(cluster: Cluster, resources: Resources) -> None:
    """Wait until every node is there with its devices."""
    progress(f"Ray on {', '.join(cluster.steps)}: waiting until all have joined")
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        cluster.check_steps()
        cluster.state.look()
        nodes = cluster.state.nodes
        if not (missing := sorted(cluster.steps.keys() - nodes.keys())):
            break
        if time.monotonic() > deadline:
            raise UserError(
                f"node {missing[0]} has not joined Ray in {JOIN_SECONDS:.0f} s: see "
                f"{cluster.log(missing[0])}"
            )
        time.sleep(0.5)
    for name, gpus in nodes.items():
        if gpus < resources.ranks_per_node:
            raise UserError(
                f"node {name} has joined with {gpus:g} GPUs, {resources.ranks_per_node} are needed "
                "(resources.gpu): does Slurm give the job GPUs there?"
            )


def _take_down(cluster: Cluster) -> None:
    """End all nodes, the head last, and what is left of their steps."""
    cluster.state.end()
    steps = list(cluster.steps.values())
    for group in (steps[1:], steps[:1]):
        deadline = time.monotonic() + LEAVE_SECONDS
        for step in group:
            if step.stdin:
                step.stdin.close()
        for step in group:
            try:
                step.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
    if left := [node for node, step in cluster.steps.items() if step.poll() is None]:
        slurm.cancel_steps(left)
        for node in left:
            step = cluster.steps[node]
            try:
                step.wait(5)
            except subprocess.TimeoutExpired:
                # Its node is gone: there is nobody to tell it that the step has ended.
                os.killpg(step.pid, signal.SIGKILL)
                step.wait()
