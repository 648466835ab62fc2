"""Trainings on one machine do not meet: neither their weights nor their Rays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    """Where Ray keeps its files, with a path that is short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


@pytest.fixture
def foreign_ray(ray_folder) -> Iterator[str]:
    """Somebody's cluster on this machine; its address."""
    env = os.environ | {"RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--port", "0", "--num-cpus", "1", "--include-dashboard", "false"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as cluster:
        assert any("--block" in line for line in cluster.stdout)
        yield (ray_folder / "ray_current_cluster").read_text()
        cluster.terminate()


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    found = (line.partition("found ")[2] for line in done.stdout.splitlines() if "found " in line)
    return dict(line.split(" ", 1) for line in found)


def test_a_training_joins_no_cluster_of_the_machine_and_writes_no_token_for_all(
    foreign_ray, ray_folder, tmp_path
):
    home = {"HOME": str(tmp_path), "RAY_TMPDIR": str(ray_folder)}
    own = answers(run("own_ray.py", **home))
    assert own["address"] != foreign_ray
    assert own["private"] == "True"
    assert not (tmp_path / ".ray").exists()
    assert not Path(own["directory"]).exists()

    named = answers(run("own_ray.py", RAY_ADDRESS=foreign_ray, RAY_AUTH_MODE="disabled", **home))
    assert named["address"] == foreign_ray
    assert named["private"] == "True"  # its sockets, also among another cluster's processes


def test_a_cluster_that_is_no_more_is_not_looked_for(ray_folder):
    (ray_folder / "ray_current_cluster").write_text("127.0.0.1:1")
    own = answers(run("own_ray.py", RAY_TMPDIR=str(ray_folder)))
    assert own["address"] != "127.0.0.1:1"
