"""A training on a Ray cluster that somebody else has started: a client, which ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_runs import materials, study

from criticflow.config import Resources
from criticflow.training.attempt import run_verl
from criticflow.training.memory_use import MemoryUse
from criticflow.training.overrides import Places, verl_overrides

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture
def somebodys_ray() -> Iterator[tuple[subprocess.Popen, str]]:
    """A cluster of one node with one logical GPU, and its address."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--port", "0", "--num-cpus", "8", "--num-gpus", "1", "--temp-dir", folder]
        command += ["--include-dashboard", "false", "--object-store-memory", str(2**29)]
        named = Path(folder) / "ray_current_cluster"
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as cluster:
            while not (named.exists() and named.read_text()):
                assert cluster.poll() is None
                time.sleep(0.2)
            yield cluster, named.read_text()
            cluster.terminate()


def test_a_training_is_its_client_and_leaves_it_as_it_was(somebodys_ray, tmp_path, monkeypatch):
    cluster, address = somebodys_ray
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    materials(tmp_path)
    named, resources = study(), Resources(cpu_ranks=1, ray_address=address)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    overrides = verl_overrides(
        named.runs["plain"], named.models["base"], named.tasks["problems"], resources,
        name="plain", seed=0,
        places=Places(str(tmp_path / "base"), None, tmp_path / "data", checkpoints),
    )  # fmt: skip
    log = checkpoints / "train.log"
    log.touch()
    with open(log, "rb") as lock:
        code = run_verl(overrides, resources, log, 2, lock.fileno(), MemoryUse())
    assert code == 0, log.read_text(errors="replace")[-4000:]
    assert (checkpoints / "global_step_2" / "actor").is_dir()
    assert f"Connecting to existing Ray cluster at address: {address}" in log.read_text()
    assert cluster.poll() is None
