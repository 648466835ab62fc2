"""What can happen to a training job on the real stack: a lost engine, a signal, a kill."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
import yaml
from small_study import PROJECT, processes_in
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from criticflow.training.job import LOG
from criticflow.training.watchdog import ESSENTIAL

pytestmark = pytest.mark.e2e

STEPS = 12
START, END = 240.0, 60.0
"""Seconds until the first steps are made, and until everything has ended."""

SMALL = {
    "models": {"tiny": {"build": {"sft": {"steps": 60}}}},
    "tasks": {"countdown-mini": {"split": {"val": 16, "test": 16}}},
    "probe": {"n": 2, "prompts": 16},
    "train": {
        "steps": STEPS,
        "batch_size": 16,
        "mini_batch_size": 8,
        "micro_batch_size": 4,
        "save_every": 2,
    },
}
NOT_HERE = ("vLLMHttpServer", "AgentLoopWorker", "TellingAgentLoopWorker", "RewardLoopWorker")
WATCHED = set(ESSENTIAL) - {f"ray::{name}" for name in NOT_HERE}
"""What a training on the CPU has of the processes that the watchdog looks after."""
CHECKPOINTS = "results/checkpoints/cold/seed0"
METRICS = "results/runs/cold/seed0/metrics.parquet"


class Study:
    """A study in a directory of its own, of which only the cold run is made."""

    def __init__(self, workdir: Path, settings: dict[str, Any] = SMALL) -> None:
        self.workdir = workdir
        self.settings = settings

    def start(
        self, target: str = METRICS, overlay: dict[str, Any] | None = None, **env: str
    ) -> subprocess.Popen[str]:
        settings = self.settings | (overlay or {})
        (self.workdir / "small.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--cores", "all", target]
        command += ["--directory", str(self.workdir), "--configfile", "small.yaml"]
        command += ["--snakefile", str(PROJECT / "workflow" / "Snakefile")]
        output = open(self.workdir / "terminal", "w", encoding="utf-8")  # noqa: SIM115
        return subprocess.Popen(
            command,
            cwd=self.workdir,
            env=os.environ | env,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # signals to the group do not reach the tests
        )

    def finish(
        self,
        target: str = METRICS,
        seconds: float = START + 60,
        overlay: dict[str, Any] | None = None,
    ) -> str:
        assert self.start(target, overlay).wait(timeout=seconds) == 0, self.terminal()
        return self.terminal()

    def terminal(self) -> str:
        return (self.workdir / "terminal").read_text(encoding="utf-8")

    def wait_for(self, text: str, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + START
        while text not in self.terminal():
            assert process.poll() is None and time.monotonic() < deadline, self.terminal()
            time.sleep(0.2)

    def wait_until_ended(self) -> None:
        began = time.monotonic()
        while left := self.processes():
            assert time.monotonic() - began < END, left
            time.sleep(0.2)
        print(f"all ended after {time.monotonic() - began:.1f} s")

    def processes(self) -> list[psutil.Process]:
        """What works in the directory, as all that a study starts does."""
        return processes_in(self.workdir)

    def log(self) -> str:
        """The stage's own words, of the newest attempt."""
        path = self.workdir / "logs/train_run/cold/seed0.log"
        return path.read_text(encoding="utf-8", errors="replace")

    def trainer_log(self) -> str:
        """What verl and all below it wrote, in all attempts."""
        path = self.workdir / CHECKPOINTS / LOG
        return path.read_text(encoding="utf-8", errors="replace")

    def saved_steps(self) -> list[str]:
        """The checkpoints that are there, of whichever attempt."""
        return sorted(path.name for path in (self.workdir / CHECKPOINTS).glob("global_step_*"))

    def weights(self) -> dict[str, list[torch.Tensor]]:
        """The last checkpoint's shards: weights and optimizers of actor and critic."""
        folder = self.workdir / CHECKPOINTS / f"global_step_{STEPS}"
        shards = [path for kind in ("model", "optim") for path in folder.rglob(f"{kind}_*.pt")]
        assert len(shards) == 8  # two ranks
        # Not the files' bytes: pickle numbers objects as a process has met them.
        return {str(path.relative_to(folder)): tensors(path) for path in shards}


def tensors(path: Path) -> list[torch.Tensor]:
    found = tree_leaves(torch.load(path, weights_only=False))
    found = [leaf for leaf in found if isinstance(leaf, torch.Tensor)]
    assert found
    return [leaf.to_local() if isinstance(leaf, DTensor) else leaf for leaf in found]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Iterator[Study]:
    made = Study(tmp_path_factory.mktemp("faults"))
    made.finish("results/probe/tiny/countdown-mini/summary.json")
    yield made
    left = made.processes()
    for process in left:
        process.kill()
    assert left == []


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses on which they listen, loopback aside."""
    addresses = set()
    for process in processes:
        try:
            connections = process.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        addresses |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return {address for address in addresses if not loopback(address)}


def loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def titled(processes: list[psutil.Process], title: str) -> list[psutil.Process]:
    return [one for one in processes if Path((one.cmdline() or [""])[0]).name.startswith(title)]


def test_a_job_that_lost_its_engine_ends_within_a_minute_and_goes_on_when_run_again(study):
    few = {"train": SMALL["train"] | {"steps": 6}}
    snakemake = study.start(overlay=few)
    study.wait_for("step 2/6", snakemake)
    processes = study.processes()
    assert listening(processes) == set()
    assert all(titled(processes, title) for title in WATCHED), processes

    titled(processes, "VLLM::EngineCore")[0].kill()
    killed = time.monotonic()
    assert snakemake.wait(timeout=END) == 1
    assert time.monotonic() - killed < END
    # verl notices by itself while it generates, and waits for ever at other moments.
    found = "VLLM::EngineCore has ended, and training waits for it in vain|ended with exit code 1|"
    found += "trajectories of a step were lost .*EngineDeadError"
    assert re.search(found, study.terminal())
    tail = study.trainer_log().rsplit("\nended: ", 1)[1]
    assert f"{CHECKPOINTS}/{LOG}" in study.log()
    assert "Traceback (most recent call last)" in tail and "EngineDeadError" in tail
    assert study.processes() == []

    terminal = study.finish(overlay=few)
    gone_on = re.search(r"starting verl from step (2|4) of 6", terminal)
    metrics = pd.read_parquet(study.workdir / METRICS).set_index("step")
    assert list(metrics.index) == [1, 2, 3, 4, 5, 6]
    # verl saves a step before it logs it: an engine that died in between takes that row along.
    assert metrics["critic/score/mean"].drop(int(gone_on[1])).notna().all()
    assert study.saved_steps() == ["global_step_6"]  # keep_checkpoints: 1


@pytest.mark.slow
def test_weights_after_four_interruptions_equal_those_of_an_uninterrupted_run(study, tmp_path):
    uninterrupted = Study(tmp_path)
    uninterrupted.finish()

    (study.workdir / METRICS).unlink(missing_ok=True)
    subprocess.run(["rm", "-r", str(study.workdir / "results/checkpoints")], check=False)
    snakemake = study.start()
    study.wait_for(f"step 1/{STEPS}", snakemake)
    snakemake.send_signal(signal.SIGTERM)
    assert snakemake.wait(timeout=END) == 1
    assert "saved and stopped, as it was asked to: a retry" in study.terminal()
    assert study.processes() == []

    snakemake = study.start(SLURM_JOB_END_TIME=str(time.time() + 60))
    assert snakemake.wait(timeout=START) == 1
    assert "saved and stopped, because Slurm's time limit is near: a retry" in study.terminal()
    assert study.log().splitlines()[-1].startswith("error: training of cold, seed 0, saved and")
    assert study.processes() == []

    snakemake = study.start()
    study.wait_for(f"step 4/{STEPS}", snakemake)
    os.killpg(snakemake.pid, signal.SIGINT)  # as Ctrl-C does
    assert snakemake.wait(timeout=END) == 1
    study.wait_until_ended()

    snakemake = study.start()
    study.wait_for(f"step 5/{STEPS}", snakemake)
    snakemake.kill()
    snakemake.wait()
    study.wait_until_ended()

    study.finish()
    assert study.saved_steps() == uninterrupted.saved_steps()
    torch.testing.assert_close(study.weights(), uninterrupted.weights(), rtol=0, atol=0)
    tables = [pd.read_parquet(one.workdir / METRICS) for one in (study, uninterrupted)]
    same = ["step", "critic/score/mean", "actor/entropy", "critic/vf_loss", "actor/pg_loss"]
    pd.testing.assert_frame_equal(*(table[same] for table in tables), check_exact=True)


@pytest.mark.slow
def test_a_full_disk_costs_the_newest_checkpoint_at_most(study, request):
    """It fills up between actor and critic: the older checkpoint has to be whole then."""
    (study.workdir / METRICS).unlink(missing_ok=True)
    disk = study.workdir / "results/checkpoints"
    disk.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", disk]).returncode:
        pytest.skip("no right to mount a tmpfs here")
    request.addfinalizer(lambda: subprocess.run(["umount", disk], check=True))

    snakemake = study.start()
    study.wait_for(f"step 2/{STEPS}", snakemake)
    actor = study.workdir / CHECKPOINTS / "global_step_2" / "actor"
    size = sum(path.stat().st_size for path in actor.rglob("*.pt"))
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(disk).free - int(1.4 * size))
    assert snakemake.wait(timeout=START) == 1
    study.wait_until_ended()
    assert (actor.parents[1] / "global_step_4" / "actor").is_dir()
    error = f"its disk is full.*goes on from step 2{os.linesep}"
    assert re.search(error, study.log())

    (disk / "filler").unlink()
    assert f"starting verl from step 2 of {STEPS}" in study.finish()
    assert list(pd.read_parquet(study.workdir / METRICS)["step"]) == list(range(1, STEPS + 1))
    assert study.saved_steps() == [f"global_step_{STEPS}"]


@pytest.mark.slow
def test_a_training_that_runs_out_of_memory_says_so_and_what_to_lower(study):
    (study.workdir / METRICS).unlink(missing_ok=True)
    # Ray ends workers at this share of the machine's memory; at 95 % by itself.
    snakemake = study.start(RAY_memory_usage_threshold="0.01")
    assert snakemake.wait(timeout=START) == 1
    error = r"ran out of memory: at its peak it used \d+\.\d GiB \(.*; lower resources.cpu_r"
    assert re.search(error, study.log().splitlines()[-1])
    study.wait_until_ended()


@pytest.mark.slow
def test_a_rollout_that_yields_no_token_is_ended_long_before_the_step_is_overdue(study):
    subprocess.run(["rm", "-rf", str(study.workdir / "results/checkpoints")], check=True)
    (study.workdir / METRICS).unlink(missing_ok=True)
    snakemake = study.start(overlay={"resources": {"rollout_stall_minutes": 0.25}})
    study.wait_for(f"step 1/{STEPS}", snakemake)
    engines = titled(study.processes(), "VLLM::EngineCore")

    def rollout() -> list[Path]:
        return list((study.workdir / CHECKPOINTS).glob("metrics/*.rollouts/engine-*"))

    def stuck() -> bool:
        """Engines live and answer nothing: whether that met them in a rollout, which is short."""
        for engine in engines:
            engine.suspend()
        time.sleep(1)
        if not (met := bool(rollout())):
            for engine in engines:
                engine.resume()
        return met

    while not (rollout() and stuck()):
        assert snakemake.poll() is None, study.terminal()
    assert snakemake.wait(timeout=START) == 1
    error = "has generated no token for 0.25 minutes .resources.rollout_stall_minutes."
    assert re.search(error, study.log().splitlines()[-1])
    study.wait_until_ended()
