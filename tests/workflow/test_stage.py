"""A rule's script around its action: logs, errors, and a Snakemake that is killed meanwhile."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from snake import PROJECT
from test_processes import DAEMON, alive, wait_for

RULES = PROJECT / "workflow" / "rules"
SCRIPTS = sorted((PROJECT / "workflow" / "scripts").glob("*.py"))
STAGES = [path for path in SCRIPTS if "run_stage(" in path.read_text(encoding="utf-8")]

SNAKEFILE = f"""
import sys
from types import SimpleNamespace
from criticflow.planning.workdir import claim_workdir

claim_workdir()
CONFIG = SimpleNamespace(
    runs=["r"],
    run_seeds=lambda: [("r", 0)],
    resources=SimpleNamespace(device="cpu", gpu=0, ray_address=None),
)
IMPORTS = SimpleNamespace(files=[], notes=[])
placed = str

include: "{RULES}/messages.smk"

rule work:
    output: "results/{{name}}.txt"
    log: "logs/{{name}}.log"
    benchmark: "results/benchmarks/{{name}}.tsv"
    script: "work.py"
"""
SCRIPT = """
from criticflow.runtime.stage import run_stage

def child():
    print("words of a spawned process")

def main(snakemake):
    import multiprocessing, subprocess, sys
    from pathlib import Path
    from criticflow.errors import UserError
    from criticflow.logs import progress

    name = snakemake.wildcards.name
    progress("step 1/2")
    subprocess.run(["echo", "words of a child"], check=True)
    if name == "spawning":
        process = multiprocessing.get_context("spawn").Process(target=child)
        process.start()
        process.join()
    if name == "bad":
        raise UserError("data.csv: no rows: give it some")
    if name == "defect":
        raise ZeroDivisionError("of ours")
    Path(snakemake.output[0]).write_text("half")
    if name == "long" and not Path("short").exists():
        code = Path("daemon.py").read_text() + "time.sleep(600)"
        subprocess.run([sys.executable, "-c", code, "daemon"], check=True)
    Path(snakemake.output[0]).write_text("whole")

if __name__ == "__main__":
    run_stage(snakemake, main)
"""


@pytest.fixture
def workdir(tmp_path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "work.py").write_text(SCRIPT)
    (tmp_path / "daemon.py").write_text(DAEMON)
    return tmp_path


def start(workdir: Path, name: str) -> subprocess.Popen[str]:
    profile = PROJECT / "workflow" / "profiles" / "default"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", f"results/{name}.txt"]
    command += ["--workflow-profile", str(profile)]
    return subprocess.Popen(
        command,
        cwd=workdir,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_output_goes_to_the_log_and_progress_to_the_terminal_too(workdir):
    process = start(workdir, "good")
    terminal = process.communicate()[0]
    log = (workdir / "logs/good.log").read_text()
    assert process.returncode == 0
    assert (workdir / "results/good.txt").read_text() == "whole"
    assert "[work good] step 1/2" in terminal
    assert "words of a child" not in terminal
    assert "step 1/2" in log
    assert "words of a child" in log


def test_a_process_that_a_stage_spawns_starts_no_stage(workdir):
    """Such a process (vLLM's, where it is told to spawn) reads the stage's script again."""
    process = start(workdir, "spawning")
    terminal = process.communicate(timeout=60)[0]
    log = (workdir / "logs/spawning.log").read_text()
    assert process.returncode == 0, terminal + log
    assert log.count("words of a spawned process") == 1
    assert log.count("step 1/2") == 1


@pytest.mark.parametrize("script", STAGES, ids=lambda path: path.stem)
def test_every_stages_script_can_be_read_without_starting_it(script):
    assert "main" in runpy.run_path(str(script), run_name="__mp_main__")  # as multiprocessing does


@pytest.mark.parametrize(
    ("name", "line", "traceback"),
    [
        ("bad", "[work bad] error: data.csv: no rows: give it some", False),
        ("defect", "[work defect] error: ZeroDivisionError: of ours", True),
    ],
)
def test_an_error_is_one_line_on_the_terminal_and_told_in_the_log(workdir, name, line, traceback):
    process = start(workdir, name)
    terminal = process.communicate()[0]
    assert process.returncode == 1
    assert line in terminal
    assert "Traceback" not in terminal
    assert f"log of the failed job: logs/{name}.log" in terminal
    assert ("Traceback" in (workdir / f"logs/{name}.log").read_text()) is traceback


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("whole_group", [False, True], ids=["kill PID", "Ctrl-C"])
def test_after_a_kill_nothing_is_left_and_the_same_command_goes_on(workdir, number, whole_group):
    process = start(workdir, "long")
    wait_for((workdir / "daemon").exists, 60)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.wait(60) != 0
    wait_for(lambda: not alive(workdir / "daemon"))
    if number == signal.SIGINT:  # the log is shown after Ctrl-C: no traceback, nothing is to mend
        log = (workdir / "logs/long.log").read_text()
        assert log.endswith("stopped by SIGINT\n") and "Traceback" not in log

    (workdir / "short").touch()
    again = start(workdir, "long")
    terminal = again.communicate()[0]
    assert again.returncode == 0, terminal
    assert (workdir / "results/long.txt").read_text() == "whole"


def test_a_living_snakemake_keeps_its_directory(workdir):
    first = start(workdir, "long")
    wait_for((workdir / "daemon").exists, 60)
    second = start(workdir, "long")
    assert "cannot be locked" in second.communicate()[0]
    assert second.returncode != 0
    assert first.poll() is None
    first.terminate()
    first.wait(60)
