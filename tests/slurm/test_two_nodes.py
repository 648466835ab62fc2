"""Trainings on two nodes of a real Slurm, each with its own network, processes and shared memory.

The nodes are this machine in namespaces (``with_slurm.sh``), with one FSDP rank each. Slow tests
take two to four minutes each, beside what they share: ``make test-slurm ARGS="-m slow"``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil
import pytest
import yaml
from safetensors.numpy import load_file
from test_slurm import (
    CLUSTER,
    PROJECT,
    SMALL,
    ask,
    got,
    here,
    recorded,
    said,
    start,
    text,
    wait_for,
)

pytestmark = pytest.mark.skipif(
    not os.environ.get("CRITICFLOW_TEST_FAR"), reason="no further nodes here: run `make test-slurm`"
)

STUDY = {
    **SMALL,
    "resources": {"nodes": 2, "cpu_ranks": 1},
    "train": SMALL["train"] | {"critic_warmup": 0, "micro_batch_size": 4},
    # Another seed: nothing of it is the same as in the other training.
    "runs": SMALL["runs"] | {"long": {"like": "cold", "seeds": [1], "train": {"steps": 8}}},
}
ONE_NODE = {"nodes": 1, "cpu_ranks": 2}
SITE = {
    "default-resources": {"slurm_partition": "far", "slurm_account": "study"},
    "jobs": 2,
    "retries": 0,
    "latency-wait": 5,
    "slurm-init-seconds-before-status-checks": 5,
}
COLD, LONG = "cold/seed0", "long/seed1"
MODELS = [f"results/runs/{COLD}/actor", f"results/runs/{COLD}/critic"]
METRICS = [f"results/runs/{training}/metrics.parquet" for training in (COLD, LONG)]
LOST_SECONDS = 60
"""Within so many a training says which node is lost."""


def locally(workdir: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    """Make something of the study on this machine, without Slurm: trainings on one node."""
    overlay = workdir / "local.yaml"
    overlay.write_text(yaml.safe_dump(STUDY | {"resources": ONE_NODE}), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", "2"]
    command += ["--directory", str(workdir), "--snakefile", str(PROJECT / "workflow/Snakefile")]
    # Ray gives its own start half a minute, which a busy machine may not.
    command += ["--retries", "2", "--configfile", str(overlay)]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)


def on_nodes(workdir: Path, *arguments: str, **resources: Any) -> subprocess.Popen:
    """The same by Slurm, each training on two nodes, or with other resources."""
    overlay = workdir / "nodes.yaml"
    study = STUDY | {"resources": resources or STUDY["resources"]}
    overlay.write_text(yaml.safe_dump(study), encoding="utf-8")
    return start(workdir, *arguments, "--configfile", str(overlay), site=SITE)


def made_on_nodes(workdir: Path, *targets: str, **resources: Any) -> None:
    """The same, and wait until it is done."""
    process = on_nodes(workdir, *targets, **resources)
    try:
        assert process.wait(900) == 0, said(workdir)
    finally:
        process.kill()
        process.wait()


def copied(study: Path, workdir: Path, *more: str) -> Path:
    """The same study elsewhere: its model, problems, probe and ``more`` of its results."""
    for folder in ("data", "models", "probe", *more):
        shutil.copytree(study / "results" / folder, workdir / "results" / folder)
    shutil.copytree(study / ".snakemake", workdir / ".snakemake")
    return workdir


def jobs_of(workdir: Path) -> list[dict[str, str]]:
    """The trainings of a study that have ended, as accounting has them."""
    return [job for job in recorded("train_run") if job["WorkDir"] == str(workdir)]


def checkpoint(workdir: Path, training: str, step: int) -> dict[str, bytes]:
    """The bytes of every tensor of actor and critic and of their optimizers, by file and place."""
    folder = workdir / "results/checkpoints" / training / f"global_step_{step}"
    found = {}
    for file in sorted([*folder.glob("*/model_*.pt"), *folder.glob("*/optim_*.pt")]):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if "/data/" in name:
                    found[f"{file.relative_to(folder)}:{name}"] = archive.read(name)
    assert found
    return found


def learned(workdir: Path, training: str) -> pd.DataFrame:
    """What a training logged, a row a step.

    Less times, memory, and what vLLM thinks of its responses' probabilities: their last bits depend
    on which of them it computes together, so on when they came. No weight follows from them.
    """
    table = pd.read_parquet(workdir / f"results/runs/{training}/metrics.parquet").set_index("step")
    other = ("timing", "rollout_corr/", "training/rollout_")
    return table[[name for name in table if not name.startswith(other) and "perf/" not in name]]


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
    done = locally(workdir, "probe")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory) -> Path:
    """The same when both trainings have run on one node, one after the other."""
    workdir = copied(prepared, tmp_path_factory.mktemp("alone"))
    done = locally(workdir, *MODELS, *METRICS)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory) -> Path:
    """The same when a training has run on two nodes."""
    workdir = copied(prepared, tmp_path_factory.mktemp("trained"))
    made_on_nodes(workdir, *MODELS)
    return workdir


def test_a_training_has_its_nodes_and_leaves_nothing_there(before, trained):
    (job,) = jobs_of(trained)
    assert (job["State"], job["Partition"]) == ("COMPLETED", "far")
    assert got(job)["node"] == "2"
    steps = ask("sacct", "--noheader", "--parsable2", f"--jobs={job['JobIDRaw']}",
                "--format=JobName,NodeList")  # fmt: skip
    assert {("criticflow-far1", "far1"), ("criticflow-far2", "far2")} <= set(map(tuple, steps))
    assert "Ray on far" in text(trained / f"logs/train_run/{COLD}.log")
    folder = trained / f"results/checkpoints/{COLD}/ray"
    assert {path.name for path in folder.iterdir()} == {"far1.log", "far2.log", "state.log"}
    assert of_ray() == []
    assert of_nodes() <= before


def test_its_weights_are_those_of_two_ranks_on_one_node(trained, alone):
    for model in MODELS:
        nodes = load_file(trained / model / "model.safetensors")
        one = load_file(alone / model / "model.safetensors")
        base = load_file(trained / "results/models/tiny/model.safetensors")
        assert nodes.keys() == one.keys()
        assert all((nodes[name] == one[name]).all() for name in nodes)
        assert not all((nodes[name] == base[name]).all() for name in nodes.keys() & base.keys())


@pytest.mark.slow
def test_two_trainings_at_once_on_the_same_nodes_do_not_meet(prepared, alone, tmp_path):
    workdir = copied(prepared, tmp_path)
    process = on_nodes(workdir, *METRICS)
    logs = [workdir / f"logs/train_run/{training}.log" for training in (COLD, LONG)]

    def begun() -> bool:
        return all("Ray on far" in text(log) for log in logs)

    try:
        wait_for(lambda: begun() or process.poll() is not None, 400)
        assert begun() and not any("step 1/" in text(log) for log in logs), said(workdir)
        assert process.wait(900) == 0, said(workdir)
    finally:
        process.kill()
        process.wait()
    assert of_ray() == []
    assert [got(job)["node"] for job in jobs_of(workdir)] == ["2", "2"]
    for training in (COLD, LONG):
        pd.testing.assert_frame_equal(learned(workdir, training), learned(alone, training))
    assert checkpoint(workdir, LONG, 8) == checkpoint(alone, LONG, 8)


def test_gpus_are_asked_for_node_by_node(prepared, tmp_path):
    workdir = copied(prepared, tmp_path)
    process = on_nodes(workdir, METRICS[0], "--allowed-rules", "train_run", nodes=2, gpu=2)
    try:
        assert process.wait(400) == 1
    finally:
        process.kill()
        process.wait()
    (job,) = jobs_of(workdir)
    # It began, and found no such GPUs.
    assert job["State"] == "FAILED" and "GPU" in text(workdir / f"logs/train_run/{COLD}.log")
    assert (got(job)["node"], got(job)["gres/gpu"]) == ("2", "4")
    told = ask("scontrol", "--oneliner", "show", "job", job["JobIDRaw"])[0][0].split()
    assert [part for part in told if part.startswith("TresPer")] == ["TresPerNode=gres:gpu:2"]


def cut_off(node: str) -> None:
    """Let a node vanish, as if its power had gone."""
    subprocess.run(["ip", "link", "set", f"cf{node}", "down"], check=True)
    os.kill(int((Path(CLUSTER) / f"{node}.pid").read_text()), signal.SIGKILL)


def repair(node: str) -> None:
    """Let it come back."""
    subprocess.run(["ip", "link", "set", f"cf{node}", "up"], check=True)
    subprocess.run([Path(CLUSTER) / "start_far_node", node], check=True)
    state = ["sinfo", "--noheader", f"--nodes={node}", "--format=%T|%E"]
    try:
        wait_for(lambda: ask(*state)[0][0] == "idle", 120)
    except AssertionError as error:
        logs = [Path(CLUSTER) / name for name in ("slurmctld.log", f"slurmd.{node}.log")]
        told = "\n".join(text(log)[-3000:] for log in logs)
        raise AssertionError(f"{node} is {ask(*state)}\n{told}") from error


class Lost(NamedTuple):
    """A training that has lost a node: its study, its last checkpoint's step, that node, and the
    other one."""

    workdir: Path
    saved: int
    node: str
    other: str


@pytest.fixture(scope="module")
def lost(prepared, tmp_path_factory) -> Lost:
    workdir = copied(prepared, tmp_path_factory.mktemp("lost"))
    folder, log = workdir / "results/checkpoints" / LONG, workdir / f"logs/train_run/{LONG}.log"
    process = on_nodes(workdir, METRICS[1])
    try:
        saved = folder / "latest_checkpointed_iteration.txt"
        wait_for(lambda: saved.exists() or process.poll() is not None, 400)
        assert process.poll() is None, said(workdir)
        first = text(log).partition("Ray on ")[2].partition(",")[0]
        lost = {"far1": "far2", "far2": "far1"}[first]
        cut_off(lost)
        began = time.monotonic()
        wait_for(lambda: f"node {lost} is lost" in text(log), LOST_SECONDS)
        print(f"told after {time.monotonic() - began:.0f} s")
        # The job ends by itself, and Slurm would wait some minutes yet for an answer of the node.
        wait_for(lambda: not here(workdir), 120)
        print(f"ended after {time.monotonic() - began:.0f} s")
        assert of_ray() == []
        down = ["scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=lost"]
        subprocess.run(down, check=True)
        assert process.wait(120) == 1
        assert [job["State"] for job in jobs_of(workdir)] == ["FAILED"]
        return Lost(workdir, int(text(saved)), lost, first)
    finally:
        process.kill()
        process.wait()


def went_on(workdir: Path, saved: int) -> None:
    """A training has all its steps, and made those up to its checkpoint once."""
    assert list(learned(workdir, LONG).index) == list(range(1, 9))
    folder = workdir / "results/checkpoints" / LONG / "metrics"
    later = folder / "attempt-0001.jsonl"
    assert sorted(folder.glob("*.jsonl")) == [folder / "attempt-0000.jsonl", later]
    steps = [json.loads(line)["step"] for line in text(later).splitlines()]
    assert steps == list(range(saved + 1, 9))


def test_a_lost_node_is_named_and_nothing_is_left_on_the_other(lost):
    assert 1 <= lost.saved < 8


@pytest.mark.slow
def test_what_is_left_goes_on_with_other_ranks(lost, alone, tmp_path):
    workdir = copied(lost.workdir, tmp_path, "checkpoints")
    made_on_nodes(workdir, METRICS[1], nodes=1, cpu_ranks=1)
    (job,) = jobs_of(workdir)
    assert job["NodeList"] == lost.other
    assert "was made by 2 ranks, and is now one of 1" in text(
        workdir / f"logs/train_run/{LONG}.log"
    )
    went_on(workdir, lost.saved)
    # It samples with the weights that were saved; what it learns is summed in another order.
    step = lost.saved + 1
    same = ["critic/score/mean", "response_length/mean", "prompt_length/mean"]
    found, wanted = learned(workdir, LONG), learned(alone, LONG)
    pd.testing.assert_series_equal(found.loc[step, same], wanted.loc[step, same])
    close = ["critic/values/mean", "actor/entropy", "critic/vf_loss"]
    pd.testing.assert_series_equal(found.loc[step, close], wanted.loc[step, close], rtol=1e-4)


@pytest.mark.slow
def test_both_nodes_go_on_as_if_nothing_had_been(lost, alone):
    repair(lost.node)
    made_on_nodes(lost.workdir, METRICS[1])
    assert got(jobs_of(lost.workdir)[-1])["node"] == "2"
    went_on(lost.workdir, lost.saved)
    found, wanted = learned(lost.workdir, LONG), learned(alone, LONG)
    # The step of the checkpoint may have been saved, and not yet logged.
    pd.testing.assert_frame_equal(found.drop(lost.saved), wanted.drop(lost.saved), check_like=True)
    assert checkpoint(lost.workdir, LONG, 8) == checkpoint(alone, LONG, 8)
