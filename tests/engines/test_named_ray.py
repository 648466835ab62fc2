"""Trainings on a Ray cluster that somebody else has started (``resources.ray_address``)."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from whole_runs import HERE, json_lines, storages, train

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.training.ray_room import require_room

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


class Foreign(NamedTuple):
    """Somebody's cluster: its head, its address, and the environment that knows its token."""

    head: subprocess.Popen
    address: str
    env: dict[str, str]

    def tables(self) -> dict[str, Any]:
        """Its living nodes, and its actors with their states."""
        command = [sys.executable, "-m", "criticflow.training.ray_state", self.address]
        done = subprocess.run(command, env=self.env, input="", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def actors(self) -> set[str]:
        """Those that live, by class."""
        return {name for name, state in self.tables()["actors"] if state != "DEAD"}


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    """A cluster of one node with a token, and room for two ranks."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--port", "0", "--num-cpus", "16", "--num-gpus", "2", "--temp-dir", folder]
        command += ["--include-dashboard", "false", "--object-store-memory", str(2**29)]
        named = Path(folder) / "ray_current_cluster"
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as head:
            try:
                while not (named.exists() and named.read_text()):
                    assert head.poll() is None
                    time.sleep(0.2)
                yield Foreign(head, named.read_text(), env)
            finally:
                head.terminate()


def test_room_is_asked_of_the_cluster_itself(foreign):
    require_room(Resources(cpu_ranks=2, ray_address=foreign.address), foreign.env)
    with pytest.raises(UserError, match=r"has no 1 node with 3 GPUs .* it has: 2 GPUs and 16 CPUs"):
        require_room(Resources(gpu=3, ray_address=foreign.address), foreign.env)
    with pytest.raises(UserError, match="has no 2 nodes with 1 GPUs"):
        require_room(Resources(gpu=1, nodes=2, ray_address=foreign.address), foreign.env)
    stranger = {key: value for key, value in foreign.env.items() if not key.startswith("RAY_AUTH")}
    with pytest.raises(UserError, match=r"tells nothing of its nodes .*RAY_AUTH_TOKEN_PATH"):
        require_room(Resources(ray_address=foreign.address), stranger)
    assert foreign.head.poll() is None


def client(foreign: Foreign, folder: Path, name: str, seed: int) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "client_training.py")]
    command += [str(folder), name, str(seed), foreign.address]
    return subprocess.Popen(command, env=foreign.env)


def log(folder: Path, name: str) -> str:
    return (folder / name / "train.log").read_text(errors="replace")


def test_two_trainings_are_its_clients_and_leave_it_as_it_was(foreign, folder):
    trainings = {"one": client(foreign, folder, "one", 0), "two": client(foreign, folder, "two", 1)}
    for name, training in trainings.items():
        assert training.wait(400) == 0, log(folder, name)[-8000:]
        assert f"Connecting to existing Ray cluster at address: {foreign.address}" in log(
            folder, name
        )
    assert foreign.head.poll() is None
    assert len(foreign.tables()["nodes"]) == 1
    assert foreign.actors() == set()
    # Neither has met the other: it has learned what it learns by itself, with a Ray of its own.
    alone = train(folder, "alone", ranks=1)
    one, two, alone = (
        storages(place / "global_step_2" / "actor", ranks=1)
        for place in (folder / "one", folder / "two", alone.checkpoints)
    )
    assert one == alone
    assert two != alone


def test_a_training_that_is_killed_leaves_nothing_there(foreign, folder):
    training = client(foreign, folder, "killed", 0)
    metrics = folder / "killed/metrics/attempt-0000.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and json_lines(metrics)):
        assert training.poll() is None and time.monotonic() < deadline, log(folder, "killed")
        time.sleep(0.2)
    assert "TransferQueueController" in foreign.actors()
    training.send_signal(signal.SIGKILL)
    training.wait()
    deadline = time.monotonic() + 60
    while foreign.actors():
        assert time.monotonic() < deadline, foreign.actors()
        time.sleep(1)
    assert foreign.head.poll() is None
