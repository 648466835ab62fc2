"""GPUs of one machine: found, and one job's at a time. The list of them is faked, the locks are
real."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import yaml
from snake import PROJECT, snakemake
from test_processes import wait_for

from criticflow.errors import UserError
from criticflow.runtime import devices

LISTED = """\
GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-{tag}-{n})
  MIG 1g.10gb     Device  0: (UUID: MIG-{tag}-{n})
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine with a number of GPUs that only this test has."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def make(count: int) -> str:
        tag = f"{os.getpid()}-{random.randrange(10**9)}"
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir()
        lines = "".join(LISTED.format(n=n, tag=tag) for n in range(count))
        program.write_text(f"#!/bin/sh\ncat <<END\n{lines}END\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        return tag

    return make


def names() -> list[str]:
    return [device.name for device in devices.visible()]


def test_gpus_are_found_and_the_environment_narrows_them(machine, monkeypatch):
    tag = machine(4)
    assert names() == ["0", "1", "2", "3"]
    assert devices.visible()[1].identity == f"GPU-{tag}-1"
    for allowed, found in {
        "2,0": ["2", "0"],
        f"GPU-{tag}-3,1": [f"GPU-{tag}-3", "1"],
        "1,-1,2": ["1"],  # as CUDA reads it
        "0,7,1": ["0"],
        "": [],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert names() == found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"GPU-{tag}-3")
    by_uuid = devices.visible()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert [one.identity for one in by_uuid] == [one.identity for one in devices.visible()]


def test_without_nvidia_smi_the_environment_alone_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert names() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert names() == ["4", "5"]


def test_more_gpus_than_there_are_is_an_error(machine, tmp_path, monkeypatch):
    machine(2)
    with (
        pytest.raises(UserError, match="takes 3 GPUs, and there are 2 on this machine"),
        devices.take(3, folder=tmp_path / "locks"),
    ):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with (
        pytest.raises(UserError, match="takes 2 GPUs, and CUDA_VISIBLE_DEVICES names 1"),
        devices.take(2, folder=tmp_path / "locks"),
    ):
        pass


def test_a_folder_of_somebody_elses_is_refused(machine, tmp_path):
    machine(1)
    (tmp_path / "locks").mkdir(mode=0o755)
    with (
        pytest.raises(UserError, match="is not this user's alone"),
        devices.take(1, folder=tmp_path / "locks"),
    ):
        pass


def test_what_slurm_gave_a_job_is_left_to_it(machine, tmp_path, monkeypatch):
    machine(4)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with devices.take(2, folder=tmp_path / "locks") as taken:
        assert taken == devices.Taken({}, [])
    # Several jobs of ours in one allocation are not.
    with (
        devices.take(1, folder=tmp_path / "locks") as one,
        devices.take(1, folder=tmp_path / "locks") as other,
    ):
        given = [taken.environment["CUDA_VISIBLE_DEVICES"] for taken in (one, other)]
    assert given == ["2", "3"]


JOB = """
import json, sys, time
from pathlib import Path
from criticflow.runtime import devices

count, seconds, folder = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
devices.POLL = 0.02
told = []
with devices.take(count, tell=told.append, folder=folder) as taken:
    began = time.monotonic()
    print("holds", taken.environment["CUDA_VISIBLE_DEVICES"], file=sys.stderr, flush=True)
    time.sleep(seconds)
    ended = time.monotonic()
print(json.dumps([taken.environment["CUDA_VISIBLE_DEVICES"].split(","), began, ended, told]))
"""


def job(count: int, seconds: float, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, str(count), str(seconds), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_jobs_of_any_size_share_no_gpu_and_all_get_their_turn(machine, tmp_path):
    machine(4)
    sizes = [1, 2, 4, 1, 3, 2, 1, 4]
    jobs = [job(size, 0.1, tmp_path / "locks") for size in sizes]
    results = [json.loads(one.communicate(timeout=60)[0]) for one in jobs]
    assert [len(given) for given, *_ in results] == sizes
    for gpu in "0123":
        turns = sorted((began, ended) for given, began, ended, _ in results if gpu in given)
        assert len(turns) >= 2
        assert all(ended <= began for (_, ended), (began, _) in pairwise(turns))
    waited = [told for *_, told in results if told]
    assert len(waited) >= 1
    assert all("GPUs: other jobs hold them" in line for (line,) in waited)


def test_a_killed_job_gives_its_gpus_back_when_its_last_child_has_ended(machine, tmp_path):
    machine(2)
    code = JOB.replace(
        "    time.sleep(seconds)",
        "    import subprocess\n"
        "    child = subprocess.Popen(['sleep', '600'], pass_fds=taken.fds)\n"
        "    print(child.pid, file=sys.stderr, flush=True)\n"
        "    time.sleep(600)",
    )
    command = [sys.executable, "-c", code, "2", "0", str(tmp_path / "locks")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr.readline() == "holds 0,1\n"
        child = int(killed.stderr.readline())
        killed.kill()
        killed.wait()
        with job(1, 0, tmp_path / "locks") as waiting:
            time.sleep(1)
            assert waiting.poll() is None  # the child may still use them
            os.kill(child, signal.SIGKILL)
            given, *_ = json.loads(waiting.communicate(timeout=30)[0])
            assert given == ["0"]


LIMIT = 'limit_gpus(workflow, {"runs.two": fields.Resources(gpu=2)})'
STUDY = f"""
import os
import criticflow.config as fields  # Snakemake has a Resources of its own
from criticflow.planning.gpus import limit_gpus

{LIMIT}

rule all:
    input: expand("{{name}}.json", name=list("abcd"))

rule train:
    output: "{{name}}.json"
    log: "{{name}}.log"
    resources: gpu=lambda wildcards: 2 if wildcards.name == "d" else 1
    script: "{PROJECT}/tests/workflow/uses_gpus.py"
"""


def test_two_studies_at_once_share_no_gpu(machine, tmp_path):
    machine(3)
    studies = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Snakefile").write_text(STUDY)
        command = [sys.executable, "-m", "snakemake", "--cores", "8"]
        output = open(tmp_path / name / "terminal", "w+")  # noqa: SIM115
        studies.append(
            subprocess.Popen(command, cwd=tmp_path / name, stdout=output, stderr=subprocess.STDOUT)
        )
    for study, name in zip(studies, ("one", "other"), strict=True):
        assert study.wait(timeout=120) == 0, (tmp_path / name / "terminal").read_text()
        assert re.search(r"Provided resources: gpu=.*3", (tmp_path / name / "terminal").read_text())
    used = [json.loads(path.read_text()) for path in tmp_path.glob("*/*.json")]
    assert len(used) == 8
    for gpu in "012":
        turns = sorted((began, ended) for given, began, ended in used if gpu in given)
        assert all(ended <= began for (_, ended), (began, _) in pairwise(turns))
    assert sorted(len(given) for given, *_ in used) == [1] * 6 + [2] * 2


def test_a_killed_stage_gives_its_gpu_back_when_all_it_started_has_ended(machine, tmp_path):
    machine(1)
    (tmp_path / "Snakefile").write_text(STUDY.replace(LIMIT, ""))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "a.json"]
    env = os.environ | {"SECONDS_TO_USE": "600"}
    killed = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (tmp_path / "pid").exists())
    finally:
        killed.kill()
        killed.wait()
    pid = int((tmp_path / "pid").read_text())
    with devices.take(1) as taken:
        assert taken.environment["CUDA_VISIBLE_DEVICES"] == "0"
        assert not psutil.pid_exists(pid)


TRAIN = {"batch_size": 16, "mini_batch_size": 16, "micro_batch_size": 1}
EXPERIMENTS = sorted((PROJECT / "config/experiments").glob("*.yaml"))


@pytest.mark.parametrize("count", [8, 3])
def test_the_gpu_profile_starts_what_fits_the_machine_and_nothing_else(machine, tmp_path, count):
    machine(count)
    most = max(yaml.safe_load(path.read_text())["resources"]["gpu"] for path in EXPERIMENTS)
    wish = {"resources": {"gpu": most}, "train": TRAIN}
    profile = str(PROJECT / "workflow/profiles/gpu")
    target = "data" if count == 8 else "train"  # which needs data too, and makes none in vain
    done = snakemake(tmp_path, "--profile", profile, target, overlay=wish)
    told = done.stdout + done.stderr
    if count == 8:
        assert done.returncode == 0, told
    else:
        assert done.returncode == 1
        assert f"takes {most} GPUs, and there are 3 on this machine" in told
        assert not (tmp_path / "results").exists()


def test_beside_trainings_elsewhere_engines_share_the_gpus_that_are_here(machine, tmp_path):
    machine(1)
    wish = {"resources": {"gpu": 8, "ray_address": "10.0.0.1:6379"}, "train": TRAIN}
    done = snakemake(tmp_path, "data", "--cores", "2", overlay=wish)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Provided resources: gpu=.*1", done.stdout + done.stderr)
