"""Trainings on two nodes of a real Slurm, each with its own network, processes and shared memory.

The nodes are this machine in namespaces (``with_slurm.sh``), with one FSDP rank each.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.numpy import load_file
from test_slurm import CLUSTER, PROJECT, SMALL, ask, got, recorded, said, start, text, wait_for

pytestmark = pytest.mark.skipif(
    not os.environ.get("CRITICFLOW_TEST_FAR"), reason="no further nodes here: run `make test-slurm`"
)

STUDY = {
    **SMALL,
    "resources": {"nodes": 2, "cpu_ranks": 1},
    "train": SMALL["train"] | {"critic_warmup": 0},
    "runs": SMALL["runs"] | {"long": {"like": "cold", "train": {"steps": 8}}},
}
ONE_NODE = {"nodes": 1, "cpu_ranks": 2}
SITE = {
    "default-resources": {"slurm_partition": "far", "slurm_account": "study"},
    "jobs": 2,
    "retries": 0,
    "latency-wait": 5,
    "slurm-init-seconds-before-status-checks": 5,
}
MODELS = ["results/runs/cold/seed0/actor", "results/runs/cold/seed0/critic"]
LOST_SECONDS = 60
"""Within so many a training says which node is lost."""


def locally(workdir: Path, *targets: str, **resources: Any) -> subprocess.CompletedProcess[str]:
    """Make something of the study on this machine, without Slurm."""
    overlay = workdir / "local.yaml"
    overlay.write_text(yaml.safe_dump(STUDY | {"resources": resources}), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", "2"]
    command += ["--directory", str(workdir), "--snakefile", str(PROJECT / "workflow/Snakefile")]
    command += ["--configfile", str(overlay)]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)


def on_nodes(workdir: Path, *targets: str) -> subprocess.Popen:
    """The same by Slurm, each training on two nodes."""
    overlay = workdir / "nodes.yaml"
    overlay.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return start(workdir, *targets, "--configfile", str(overlay), site=SITE)


def of_ray() -> list[str]:
    """Ray's processes on the far nodes."""
    host = os.readlink("/proc/self/ns/net")
    found = []
    for process in psutil.process_iter():
        try:
            title = " ".join(process.cmdline())
            if os.readlink(f"/proc/{process.pid}/ns/net") != host:
                found.append(title)
        except (psutil.NoSuchProcess, FileNotFoundError, PermissionError):  # not ours to see
            continue
    return [
        title for title in found if "raylet" in title or "gcs_server" in title or "ray::" in title
    ]


def of_nodes() -> set[Path]:
    """Ray's temporary directories."""
    return set(Path("/tmp").glob("criticflow-ray-*"))


@pytest.fixture(scope="module")
def before() -> set[Path]:
    """Those that are there already: a node whose power went takes nothing away."""
    return of_nodes()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A study whose model, problems and probe are there."""
    workdir = tmp_path_factory.mktemp("nodes")
    done = locally(workdir, "probe", **ONE_NODE)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def trained(prepared) -> Iterator[Path]:
    """The same when a training has run on two nodes."""
    process = on_nodes(prepared, *MODELS)
    try:
        assert process.wait(900) == 0, said(prepared)
        yield prepared
    finally:
        process.kill()
        process.wait()


def test_a_training_has_its_nodes_and_leaves_nothing_there(before, trained):
    jobs = [job for job in recorded("train_run") if job["Partition"] == "far"]
    assert [job["State"] for job in jobs] == ["COMPLETED"]
    assert all(got(job)["node"] == "2" for job in jobs)
    steps = ask("sacct", "--noheader", "--parsable2", f"--jobs={jobs[0]['JobIDRaw']}",
                "--format=JobName,NodeList")  # fmt: skip
    assert {("criticflow-far1", "far1"), ("criticflow-far2", "far2")} <= set(map(tuple, steps))
    assert "Ray on far" in text(trained / "logs/train_run/cold/seed0.log")
    folder = trained / "results/checkpoints/cold/seed0/ray"
    assert {path.name for path in folder.iterdir()} == {"far1.log", "far2.log", "state.log"}
    assert of_ray() == []
    assert of_nodes() <= before


def test_its_weights_are_those_of_two_ranks_on_one_node(trained, tmp_path):
    for folder in ("data", "models", "probe"):
        shutil.copytree(trained / "results" / folder, tmp_path / "results" / folder)
    shutil.copytree(trained / ".snakemake", tmp_path / ".snakemake")
    done = locally(tmp_path, *MODELS, **ONE_NODE)
    assert done.returncode == 0, done.stderr
    for model in MODELS:
        nodes = load_file(trained / model / "model.safetensors")
        one = load_file(tmp_path / model / "model.safetensors")
        base = load_file(trained / "results/models/tiny/model.safetensors")
        assert nodes.keys() == one.keys()
        assert all((nodes[name] == one[name]).all() for name in nodes)
        assert not all((nodes[name] == base[name]).all() for name in nodes.keys() & base.keys())


def cut_off(node: str) -> None:
    """Let a node vanish, as if its power had gone."""
    subprocess.run(["ip", "link", "set", f"cf{node}", "down"], check=True)
    os.kill(int((Path(CLUSTER) / f"{node}.pid").read_text()), signal.SIGKILL)


def test_a_lost_node_is_named_and_nothing_is_left_on_the_other(prepared):
    target, folder = "results/runs/long/seed0", prepared / "results/checkpoints/long/seed0"
    log = prepared / "logs/train_run/long/seed0.log"
    process = on_nodes(prepared, f"{target}/metrics.parquet")
    try:
        saved = folder / "latest_checkpointed_iteration.txt"
        wait_for(lambda: saved.exists() or process.poll() is not None, 400)
        assert process.poll() is None, said(prepared)
        first = text(log).partition("Ray on ")[2].partition(",")[0]
        lost = {"far1": "far2", "far2": "far1"}[first]
        cut_off(lost)
        began = time.monotonic()
        wait_for(lambda: f"node {lost} is lost" in text(log), LOST_SECONDS)
        print(f"told after {time.monotonic() - began:.0f} s")
        # Slurm and Snakemake look again from time to time only, and Slurm waits for the lost node.
        assert process.wait(420) == 1
        assert of_ray() == []
    finally:
        process.kill()
        process.wait()
