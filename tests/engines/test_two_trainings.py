"""Trainings on one machine do not meet: neither their weights nor their Rays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from criticflow.verl_plugin.job_directory import job_directory

HERE = Path(__file__).parent
PLUGIN = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "criticflow.verl_plugin.plugin"}


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / script), *arguments],
        env=os.environ | PLUGIN | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_each_rollout_engine_gets_its_own_trainings_weights_while_another_sends_too():
    with job_directory() as one, job_directory() as other:
        done = run("two_trainings.py", str(one), str(other))
        assert done.returncode == 0, done.stderr
        left = [*one.parent.glob(f"{one.name}*"), *other.parent.glob(f"{other.name}*")]
        assert sorted(left) == sorted([one, other])
    received = [line for line in done.stdout.splitlines() if line.startswith("training")]
    assert sorted(received) == [
        "training 1 received 40 of 1.0",
        "training 2 received 40 of 2.0",
    ]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """For Ray's files, instead of the machine's; its sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        (Path(folder) / "ray").mkdir()
        yield Path(folder)


@pytest.fixture
def foreign_ray(ray_folder) -> Iterator[str]:
    """Somebody's cluster on this machine; its address."""
    env = os.environ | {"RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--port", "0", "--num-cpus", "1", "--include-dashboard", "false"]
    named = ray_folder / "ray" / "ray_current_cluster"
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as cluster:
        while not (named.exists() and named.read_text()):
            assert cluster.poll() is None
            time.sleep(0.2)
        yield named.read_text()
        cluster.terminate()


def own_ray(folder: Path, **environment: str) -> dict[str, Any]:
    done = run("own_ray.py", str(folder / "answer"), **environment)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "answer").read_text())


def test_a_training_joins_no_cluster_of_the_machine_and_writes_no_token_for_all(
    foreign_ray, ray_folder, tmp_path
):
    home = {"HOME": str(tmp_path), "RAY_TMPDIR": str(ray_folder)}
    own = own_ray(tmp_path, **home)
    assert own["address"] != foreign_ray
    assert own["private"]
    assert not (tmp_path / ".ray").exists()
    assert not Path(own["directory"]).exists()

    named = own_ray(tmp_path, RAY_ADDRESS=foreign_ray, RAY_AUTH_MODE="disabled", **home)
    assert named["address"] == foreign_ray
    assert named["private"]  # its sockets, also among another cluster's processes


def test_a_cluster_that_is_no_more_is_not_looked_for(ray_folder, tmp_path):
    (ray_folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    assert own_ray(tmp_path, RAY_TMPDIR=str(ray_folder))["address"] != "127.0.0.1:1"
