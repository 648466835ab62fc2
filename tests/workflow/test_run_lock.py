"""One job at a time works in a run's directory, whatever became of the one before."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from snake import SNAKEFILE

from criticflow.errors import UserError
from criticflow.runtime import run_lock
from criticflow.training.job import LOG

# Takes the lock, and starts a child that inherits it.
JOB = """
import subprocess, sys, time
from pathlib import Path
from criticflow.runtime import run_lock
run_lock.POLL = 0.1
with run_lock.run_lock(Path(sys.argv[1])) as fd:
    child = subprocess.Popen(["sleep", "600"], pass_fds=[fd])
    print("child", child.pid, flush=True)
    time.sleep(600)
"""

# A training stage as Snakemake starts it, which has survived its Snakemake.
STAGE = '''
from pathlib import Path
from types import SimpleNamespace
from criticflow.runtime.run_lock import run_lock
from criticflow.runtime.stage import run_stage

TRAINER = """
import time
from pathlib import Path

print("step 1/40", flush=True)
while not Path("go on").exists():
    time.sleep(0.1)
print("step 2/40", flush=True)
time.sleep(600)
"""

def main(snakemake):
    import os, sys
    from criticflow.runtime.processes import run_owned
    from criticflow.training.job import LOG
    directory = Path("results/checkpoints/cold/seed0")
    with run_lock(directory):
        directory.mkdir(parents=True)
        run_owned([sys.executable, "-c", TRAINER], os.environ, directory / LOG)

log = ["logs/train_run/cold/seed0.log"]
job = SimpleNamespace(rule="train_run", wildcards=["cold", "0"], log=log, resources={})
run_stage(job, main)
'''


def wait_for(done: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "POLL", 0.1)
    monkeypatch.setattr(run_lock, "PATIENCE", 0.5)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "results" / "seed0"


@pytest.fixture
def start(tmp_path, run) -> Iterator[Callable[[str], tuple[subprocess.Popen, Path]]]:
    """Starts a job of this name; gives its process and where it writes."""
    jobs: list[subprocess.Popen] = []

    def begin(name: str) -> tuple[subprocess.Popen, Path]:
        with open(tmp_path / name, "w") as output:
            jobs.append(subprocess.Popen([sys.executable, "-c", JOB, str(run)], stdout=output))
        return jobs[-1], tmp_path / name

    yield begin
    for job in jobs:
        if job.poll() is None:
            for process in [*psutil.Process(job.pid).children(), job]:
                process.kill()
            job.wait()


@pytest.fixture
def shared(monkeypatch) -> None:
    """The disk is one that other machines may write to, too."""
    monkeypatch.setattr(run_lock, "LOCAL", frozenset())


def name_owner(run: Path, **what: object) -> None:
    """A lock as an owner leaves it that was killed, or as another host's looks from here."""
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0, "slurm_job": None}
    run.parent.mkdir(parents=True, exist_ok=True)
    run_lock.lock_path(run).write_text(json.dumps(me | what))


def test_the_owner_is_named_while_it_works_and_nobody_after(run):
    with run_lock.run_lock(run):
        me = run_lock.owner(run)
        assert (me.host, me.pid, me.slurm_job) == (socket.gethostname(), os.getpid(), None)
        assert me.lives()
    assert run_lock.owner(run) is None


def test_a_job_that_fails_gives_the_directory_back(run):
    with pytest.raises(KeyError), run_lock.run_lock(run):
        raise KeyError("the training")
    assert run_lock.owner(run) is None


def test_a_second_job_waits_until_the_first_and_all_it_started_are_gone(run, start):
    first, said = start("first")
    wait_for(lambda: "child" in said.read_text())
    child = psutil.Process(int(said.read_text().split()[1]))
    second, said = start("second")
    wait_for(said.read_text)
    assert said.read_text() == (
        f"waiting for process {first.pid} on {socket.gethostname()}, which works in {run}; "
        f"kill {first.pid} ends it\n"
    )
    assert run_lock.living_owner(run).pid == first.pid
    first.kill()
    first.wait()
    assert run_lock.living_owner(run) is None
    time.sleep(0.5)
    assert "child" not in said.read_text()  # a worker of the first still writes
    child.kill()
    wait_for(lambda: "child" in said.read_text())
    assert run_lock.owner(run).pid == second.pid


@pytest.mark.parametrize("flock", [True, False], ids=["not seen by the other node", "no flock"])
def test_names_decide_where_the_kernels_lock_does_not_reach(run, shared, flock, monkeypatch):
    def missing(*_: object) -> None:
        raise OSError("no locks available")

    living = subprocess.Popen(["sleep", "600"])
    started = psutil.Process(living.pid).create_time()
    boot = "another" if flock else run_lock.boot()
    name_owner(run, pid=living.pid, started=started, boot=boot)
    if not flock:
        monkeypatch.setattr(run_lock.fcntl, "flock", missing)
    assert run_lock.living_owner(run).pid == living.pid
    timer = threading.Timer(1.0, lambda: (living.kill(), living.wait()))
    timer.start()
    if flock:  # once it is gone, its machine alone could say that it was the one of that name
        with pytest.raises(UserError, match="nobody here can tell"):
            run_lock.run_lock(run).__enter__()
    else:
        with run_lock.run_lock(run):
            assert living.returncode is not None
    assert living.returncode is not None


@pytest.mark.parametrize(
    "what",
    [
        {"pid": 2**22 + 1},  # larger than any process number
        {"started": 1.0},  # this process, but another start
        {"host": "elsewhere"},  # a container that has another name now
        {"host": "elsewhere", "boot": "another"},  # the machine was started again
    ],
    ids=["gone", "number used again", "new host name", "new host name, new start"],
)
def test_a_dead_owner_holds_nothing_on_this_machines_disk(run, what, capsys):
    name_owner(run, **what)
    assert run_lock.living_owner(run) is None
    with run_lock.run_lock(run):
        assert run_lock.owner(run).pid == os.getpid()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "what",
    [
        {"boot": run_lock.boot(), "host": "elsewhere"},  # another container on this machine
        {"slurm_job": "7", "host": "elsewhere"},  # this Slurm job, requeued on another node
    ],
    ids=["new host name", "requeued"],
)
def test_a_dead_owner_holds_nothing_on_a_shared_disk(run, shared, what, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    name_owner(run, **what)
    with run_lock.run_lock(run):
        assert run_lock.owner(run).slurm_job == "7"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("what", "look"),
    [
        ({"host": "elsewhere", "pid": 5}, r"look on elsewhere \(ps 5\)"),
        ({"host": "elsewhere", "slurm_job": "7"}, r"look on elsewhere \(squeue --jobs 7\)"),
        ({"boot": "another", "pid": 2**22 + 1}, r"look on .* \(ps 4194305\)"),
    ],
    ids=["no Slurm job", "Slurm does not answer", "another machine may have this name"],
)
def test_an_owner_nobody_can_ask_for_is_an_error_that_says_where_to_look(
    run, shared, what, look, monkeypatch
):
    monkeypatch.setenv("PATH", "")
    name_owner(run, **what)
    with pytest.raises(UserError, match=rf"seed0\.lock is held by .*{look}; .* delete the file"):
        run_lock.run_lock(run).__enter__()


def test_which_disks_are_this_machines_alone(tmp_path, monkeypatch):
    def disks(*kinds: tuple[Path, str]) -> None:
        parts = [SimpleNamespace(mountpoint=str(place), fstype=kind) for place, kind in kinds]
        monkeypatch.setattr(run_lock.psutil, "disk_partitions", lambda all: parts)

    disks((Path("/"), "ext4"), (tmp_path / "home", "nfs4"), (tmp_path / "home/scratch", "xfs"))
    for place, local in (("x", True), ("home/x", False), ("home/scratch/x", True)):
        assert run_lock.on_local_disk(tmp_path / place) is local
    disks((Path("/"), "lustre"), (Path("/"), "overlay"))  # one over the other
    assert run_lock.on_local_disk(tmp_path)
    disks()
    assert not run_lock.on_local_disk(tmp_path)


def test_a_lock_that_cannot_be_read_is_an_error_that_names_the_file(run):
    run.parent.mkdir(parents=True)
    run_lock.lock_path(run).write_text('{"host": "here", "pid": ')
    with pytest.raises(UserError, match=r"seed0\.lock names no owner: delete it"):
        run_lock.run_lock(run).__enter__()


def test_a_second_training_job_leaves_the_trainers_log_as_it_is(tmp_path):
    """Snakemake deletes the log of the rule; the trainer's lies beside its checkpoints."""
    data = ["train.parquet", "val.parquet", "manifest.json"]
    inputs = [f"data/countdown-mini/{name}" for name in data]
    for name in [*inputs, "probe/tiny/countdown-mini/summary.json", "models/tiny/config.json"]:
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).touch()
    manifest = tmp_path / "results/data/countdown-mini/manifest.json"
    manifest.write_text(json.dumps({"source": {}, "test_source": None}))
    trainer = tmp_path / "results/checkpoints/cold/seed0" / LOG
    stage = tmp_path / "logs/train_run/cold/seed0.log"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--allowed-rules", "train_run"]
    command += ["--snakefile", str(SNAKEFILE), "--directory", str(tmp_path)]
    command += ["--", "results/runs/cold/seed0/metrics.parquet"]

    def says(log: Path, text: str) -> bool:
        return log.exists() and text in log.read_text()

    (tmp_path / "first.py").write_text(STAGE)
    with open(tmp_path / "terminal", "w") as terminal:
        jobs = [subprocess.Popen([sys.executable, "first.py"], cwd=tmp_path, stderr=terminal)]
        try:
            wait_for(lambda: says(trainer, "step 1/40"))
            jobs.append(subprocess.Popen(command, stdout=terminal, stderr=terminal))
            wait_for(lambda: says(stage, "waiting for process"), 120)
            (tmp_path / "go on").touch()
            wait_for(lambda: says(trainer, "step 2/40"))
        finally:
            for job in reversed(jobs):
                job.terminate()
                job.wait(60)
    assert trainer.read_text().startswith("step 1/40\nstep 2/40\n")
    assert stage.read_text().startswith("waiting for process ")
