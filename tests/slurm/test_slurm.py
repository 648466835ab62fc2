"""The study and what can happen to it on a real Slurm, through the profile that users have.

Run by `make test-slurm`, which brings a cluster up on this machine and takes it down again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from criticflow.runtime import run_lock, slurm

CLUSTER = os.environ.get("CRITICFLOW_TEST_SLURM", "")
pytestmark = pytest.mark.skipif(not CLUSTER, reason="no Slurm here: run `make test-slurm`")

PROJECT = Path(__file__).parents[2]
TIMEOUT = 1800  # of the whole study, seconds: against a hang; it takes some minutes
STEPS = 2
TRAINED = "results/runs/cold/seed0/metrics.parquet"

SMALL = {
    "runs": {"constant": None, "warm-frozen": None, "constant-m50": None},
    "contrasts": [],
    "models": {"tiny": {"build": {"sft": {"steps": 100}}}},
    "tasks": {"countdown-mini": {"split": {"val": 16, "test": 16}}},
    "probe": {"n": 2, "prompts": 16},
    "train": {
        "steps": STEPS,
        "batch_size": 16,
        "mini_batch_size": 16,
        "micro_batch_size": 8,
        "critic_warmup": 1,
        "save_every": 1,
    },
    "evaluate": {"n": 2, "k": [1, 2], "resamples": 100},
}
SITE = {
    "default-resources": {"slurm_partition": "gpus", "slurm_account": "study"},
    "jobs": 2,
    "latency-wait": 5,
    "slurm-init-seconds-before-status-checks": 5,
}
PARTITIONS = """
partitions:
  main: {max_runtime: 2d, max_mem_mb: 128000, max_threads: 32}
  gpus: {max_runtime: 1d, max_mem_mb: 128000, max_threads: 32, max_gpu: 2}
"""
# The first attempts of two of them go wrong.
FAULTS = """
rule all:
    input: "fails-once", "overruns-once", "fails"
rule fails_once:
    output: "fails-once"
    resources: mem_mb=400, runtime=10, gpu=1, code=lambda wildcards, attempt: 3 * (attempt == 1)
    shell: "touch {output}; exit {resources.code}"
rule overruns_once:
    output: "overruns-once"
    resources:
        mem_mb=400,
        runtime=lambda wildcards, attempt: 2 if attempt == 1 else 10,
        nap=lambda wildcards, attempt: 600 * (attempt == 1),
    shell: "sleep {resources.nap}; touch {output}"
rule fails:
    output: "fails"
    resources: mem_mb=400, runtime=10
    shell: "exit 4"
"""


def wait_for(done: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


def ask(*command: str) -> list[list[str]]:
    """Rows and columns of what one of Slurm's commands prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line.split("|") for line in done.stdout.splitlines()]


def is_of(comment: str, rule: str) -> bool:
    """Whether a job's comment, as Snakemake's plugin writes it, names this rule."""
    return comment.partition("_wildcards_")[0] == f"rule_{rule}"


def queued(rule: str) -> list[str]:
    """Numbers of the running jobs of a rule."""
    rows = ask("squeue", "--noheader", "--states=R", "--format=%i|%k")
    return [number for number, comment in rows if is_of(comment, rule)]


def recorded(rule: str) -> list[dict[str, str]]:
    """What the accounting knows of a rule's jobs, in order of submission."""
    fields = ["JobIDRaw", "State", "Partition", "Account", "TimelimitRaw", "AllocTRES", "Comment"]
    fields += ["NodeList", "WorkDir"]
    rows = ask("sacct", "-X", "--noheader", "--parsable2", f"--format={','.join(fields)}")
    jobs = [dict(zip(fields, row, strict=True)) for row in rows]
    return [job for job in jobs if is_of(job["Comment"], rule)]


def states(rule: str) -> list[str]:
    return [job["State"].split()[0] for job in recorded(rule)]


def got(job: dict[str, str]) -> dict[str, str]:
    return dict(part.split("=") for part in job["AllocTRES"].split(","))


def start(
    workdir: Path, *arguments: str, site: dict = SITE, snakefile: Path | None = None
) -> subprocess.Popen:
    """Snakemake as a user starts it, with a site's file; its output is appended to `terminal`."""
    (workdir / "site.yaml").write_text(yaml.safe_dump(site), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--directory", str(workdir)]
    command += ["--profile", str(PROJECT / "workflow/profiles/slurm")]
    command += ["--profile", str(workdir / "site.yaml")]
    command += ["--snakefile", str(snakefile or PROJECT / "workflow/Snakefile"), *arguments]
    with open(workdir / "terminal", "ab") as terminal:
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")},
            stdout=terminal,
            stderr=subprocess.STDOUT,
        )


def here(workdir: Path) -> str:
    """Number of the running job that Snakemake submitted from this directory; empty if none."""
    rows = ask("squeue", "--noheader", "--states=R", "--format=%i|%Z")
    return next((number for number, folder in rows if folder == str(workdir)), "")


def text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def said(workdir: Path) -> str:
    """All that the terminal and the logs of jobs have, for the message of a failed test."""
    logs = [workdir / "terminal", *sorted((workdir / "logs").rglob("*.log"))]
    logs += sorted((workdir / ".snakemake/slurm_logs").rglob("*.log"))
    parts = (f"\n--- {path}\n{text(path)[-3000:]}" for path in logs)
    return "".join(parts)


def restart_controller() -> None:
    """End slurmctld, leave the cluster without it for a while, and start it again."""
    number = int((Path(CLUSTER) / "slurmctld.pid").read_text())
    os.kill(number, signal.SIGTERM)
    wait_for(lambda: not psutil.pid_exists(number), 30)
    time.sleep(10)
    with open(Path(CLUSTER) / "start.log", "ab") as log:
        subprocess.run(["slurmctld"], stdout=log, stderr=log, check=True)
    wait_for(lambda: subprocess.run(["squeue", "--noheader"], check=False).returncode == 0, 30)


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A workflow whose jobs fail and overrun; it goes on beside the study."""
    workdir = tmp_path_factory.mktemp("faults")
    (workdir / "Snakefile").write_text(FAULTS, encoding="utf-8")
    (workdir / "partitions.yaml").write_text(PARTITIONS, encoding="utf-8")
    site = SITE | {
        "default-resources": {"slurm_account": "study"},
        "slurm-partition-config": "partitions.yaml",
        "jobs": 3,
    }
    process = start(workdir, site=site, snakefile=workdir / "Snakefile")
    yield workdir, process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def study(faults, tmp_path_factory) -> Iterator[Path]:
    """The working directory of a finished study, in which this happened:

    the first job was cancelled; while the first training ran, the controller was restarted and
    Snakemake killed, so that the second Snakemake submitted that training again.
    """
    workdir = tmp_path_factory.mktemp("study")
    (workdir / "small.yaml").write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    arguments = ["--configfile", str(workdir / "small.yaml")]
    began = time.monotonic()
    first = start(workdir, *arguments)
    second = None
    try:
        wait_for(lambda: queued("build_base_model") or first.poll() is not None, 600)
        time.sleep(3)
        subprocess.run(["scancel", *queued("build_base_model")], check=True)
        log = workdir / "logs/train_run/cold/seed0.log"
        wait_for(lambda: "starting verl" in text(log) or first.poll() is not None, 900)
        restart_controller()
        assert first.poll() is None, said(workdir)
        first.kill()
        first.wait()
        # Other stages are ready as well: it shall meet the training before that has ended.
        second = start(workdir, "--prioritize", TRAINED, *arguments)
        code = second.wait(TIMEOUT - (time.monotonic() - began))
        assert code == 0, said(workdir)
        yield workdir
    finally:
        for process in (first, second):
            if process and process.poll() is None:
                print(said(workdir))
                process.kill()
                process.wait()


def test_the_study_has_its_results(study):
    for run in ("cold", "warm-frozen-m50"):
        folder = study / "results/runs" / run / "seed0"
        metrics = pd.read_parquet(folder / "metrics.parquet")
        assert list(metrics["step"]) == list(range(1, STEPS + 1))
        assert (folder / "actor/model.safetensors").exists()
    critics = [f"results/runs/{run}/seed0/critic" for run in ("cold", "warm-frozen-m50")]
    weights = [(study / critic / "model.safetensors").read_bytes() for critic in critics]
    assert weights[0] == weights[1]  # the warm run began with the trained critic, and kept it
    rows = json.loads((study / "results/summary.json").read_text())
    assert [row["name"] for row in rows] == ["tiny", "cold", "warm-frozen-m50"]
    assert "train_run_warm" in (study / "results/report/snakemake.html").read_text()


def megabytes(text: str) -> float:
    """Of Slurm's ``32000M`` and ``62.50G``."""
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


@pytest.mark.parametrize(
    ("rule", "cpus", "memory", "minutes"),
    [
        ("build_base_model", 8, 4000, 60),
        ("probe_signal", 8, 32000, 120),
        ("train_run", 8, 12000, 1440),
        ("train_run_warm", 8, 12000, 1440),
        ("convert_checkpoint", 1, 32000, 60),
        ("evaluate_base", 8, 32000, 120),
        ("evaluate_run", 8, 32000, 120),
        ("evaluate_critic", 1, 32000, 120),
    ],
)
def test_each_stage_got_what_the_profile_asks_for(study, rule, cpus, memory, minutes):
    jobs = recorded(rule)
    assert jobs
    for job in jobs:
        had = got(job)
        assert (int(had["cpu"]), megabytes(had["mem"])) == (cpus, memory)
        assert int(job["TimelimitRaw"]) == minutes
        assert (job["Partition"], job["Account"]) == ("gpus", "study")


@pytest.mark.parametrize("rule", ["prepare_data", "summarise", "report_page", "snakemake_report"])
def test_light_stages_stay_on_the_login_node(study, rule):
    assert recorded(rule) == []
    assert list((study / "logs" / rule).rglob("*.log")) or (study / f"logs/{rule}.log").exists()


def test_a_cancelled_job_is_submitted_again(study):
    assert states("build_base_model") == ["CANCELLED", "COMPLETED"]


def test_after_a_killed_snakemake_two_jobs_of_a_run_do_not_meet(study):
    cold = recorded("train_run")
    assert [job["State"] for job in cold] == ["COMPLETED", "COMPLETED"]
    log = (study / "logs/train_run/cold/seed0.log").read_text()
    assert re.search(rf"waiting for process \d+ on \S+ \(Slurm job {cold[0]['JobIDRaw']}\)", log)
    assert f"(Slurm job {cold[0]['JobIDRaw']}) still trains cold, seed 0" in text(
        study / "terminal"
    )
    # The second found the work done.
    attempts = list((study / "results/checkpoints/cold/seed0/metrics").iterdir())
    assert len(attempts) == 1


def test_failed_and_overrunning_jobs_are_tried_again(faults):
    workdir, process = faults
    assert process.wait(900) == 1  # one of them fails for good
    assert states("fails_once") == ["FAILED", "COMPLETED"], said(workdir)
    assert states("overruns_once") == ["TIMEOUT", "COMPLETED"], said(workdir)
    assert states("fails") == ["FAILED"] * 4
    assert (workdir / "overruns-once").exists()
    # Where a site describes its partitions, a job goes where it fits.
    assert {job["Partition"] for job in recorded("fails_once")} == {"gpus"}
    assert {job["Partition"] for job in recorded("fails")} == {"main"}


def sleeping_job() -> str:
    command = ["sbatch", "--parsable", "--account=study", "--mem=100", "--output=/dev/null"]
    done = subprocess.run(
        [*command, "--wrap=sleep 300"], capture_output=True, text=True, check=True
    )
    number = done.stdout.strip()
    wait_for(lambda: slurm.runs(number), 60)
    return number


def test_a_lock_ends_with_the_slurm_job_of_its_owner(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "POLL", 0.5)
    # As on a disk that nodes share: on a disk of its own the kernel knows that nobody holds it.
    monkeypatch.setattr(run_lock, "on_local_disk", lambda path: False)
    number = sleeping_job()
    owner = {"host": "elsewhere", "pid": 1, "started": 0.0, "slurm_job": number}
    run_lock.lock_path(tmp_path / "seed0").write_text(json.dumps(owner))
    timer = threading.Timer(3, subprocess.run, [["scancel", number]])
    timer.start()
    with run_lock.run_lock(tmp_path / "seed0"):
        assert not timer.is_alive()
    assert f"scancel {number} ends it" in capsys.readouterr().out


def test_a_job_that_slurm_forgot_holds_no_lock():
    assert slurm.runs("4000000") is False


def test_gpus_come_from_the_configuration_and_an_interrupt_cancels_the_jobs(tmp_path):
    (tmp_path / "gpus.yaml").write_text(yaml.safe_dump({"resources": {"gpu": 2}}))
    # Enough for Snakemake to submit the training; it is cancelled before it needs more.
    data = tmp_path / "results/data/countdown-mini"
    data.mkdir(parents=True)
    for made in ("train.parquet", "val.parquet", "manifest.json"):
        (data / made).touch()
    (tmp_path / "results/models/tiny").mkdir(parents=True)
    (tmp_path / "results/probe/tiny/countdown-mini").mkdir(parents=True)
    (tmp_path / "results/probe/tiny/countdown-mini/summary.json").touch()
    arguments = ["--configfile", str(tmp_path / "gpus.yaml"), "--allowed-rules", "train_run"]
    snakemake = start(tmp_path, *arguments, "--", "results/runs/cold/seed0/metrics.parquet")
    try:
        wait_for(lambda: here(tmp_path) or snakemake.poll() is not None, 600)
        number = here(tmp_path)
        assert number, said(tmp_path)
        snakemake.send_signal(signal.SIGINT)
        assert snakemake.wait(300) == 1
    finally:
        snakemake.kill()
        snakemake.wait()

    def cancelled() -> list[dict[str, str]]:
        jobs = [job for job in recorded("train_run") if job["JobIDRaw"] == number]
        return [job for job in jobs if job["State"].startswith("CANCELLED")]

    wait_for(cancelled, 60)  # the accounting hears of it later
    (job,) = cancelled()
    assert got(job)["gres/gpu"] == "2"
    assert got(job)["node"] == "1"
    assert got(job)["cpu"] == "16"


def test_a_job_knows_when_its_time_is_up():
    code = (
        "import time; from criticflow.runtime import slurm; print(slurm.end_time() - time.time())"
    )
    command = ["srun", "--partition", "main", "--time", "4", "--mem", "300"]
    done = subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 120 < float(done.stdout) <= 241
