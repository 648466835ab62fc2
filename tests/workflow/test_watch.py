"""``criticflow watch``: how far a study is, from files alone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml
from snake import PROJECT, TWO_RUNS

from criticflow.commands import watch
from criticflow.planning.costs import Took
from criticflow.planning.study import read_study
from criticflow.runtime.run_lock import run_lock
from criticflow.training.state import states

STUDY = TWO_RUNS | {"seeds": [0, 1, 2], "truth": {"actors": []}}


@pytest.fixture
def workdir(tmp_path) -> Path:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return tmp_path


def logged(workdir: Path, run: str, seed: int, steps: int, attempt: int = 0) -> Path:
    """What verl has logged of a training so far."""
    folder = workdir / f"results/checkpoints/{run}/seed{seed}/metrics"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"attempt-{attempt:04d}.jsonl"
    rows = [{"step": 0, "data": {"val-core/countdown/reward/mean@1": 0.25}}]
    for step in range(1, steps + 1):
        data = {"critic/score/mean": step / 100, "timing_s/step": 30.0 if step == 1 else 2.0}
        if step % 10 == 0:
            data["val-core/countdown/reward/mean@1"] = 0.3 + step / 100
        rows.append({"step": step, "data": data})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines + '{"step": 99, "da', encoding="utf-8")  # a line that is being written
    return path


def made(workdir: Path, *paths: str) -> None:
    for path in paths:
        (workdir / path).parent.mkdir(parents=True, exist_ok=True)
        (workdir / path).touch()


def finished(workdir: Path, run: str, seed: int, place: str = "results") -> None:
    table = pd.DataFrame({"step": [1, 40], "critic/score/mean": [0.1, 0.625]})
    path = workdir / place / f"runs/{run}/seed{seed}/metrics.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)


def benchmark(workdir: Path, job: str, seconds: int) -> None:
    path = workdir / f"results/benchmarks/{job}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\n{seconds}\t-\n", encoding="utf-8")


def look(workdir: Path) -> dict[tuple[str, int], object]:
    config = read_study([workdir / "study.yaml"])
    return {(one.run, one.seed): one for one in states(config, workdir)}


def once(workdir: Path, capsys) -> dict[tuple[str, str], list[str]]:
    """Rows of ``--once`` by run and seed, and the last lines under an empty name."""
    watch.main(["--once", "--directory", str(workdir), "--configfile", f"{workdir}/study.yaml"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("  ") for line in lines if line.strip()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    found = {(row[0], row[1]): row[2:] for row in cells if len(row) > 5}
    found["", ""] = [" ".join(row[0] for row in cells if len(row) == 1)]
    return found


def test_every_stage_shows(workdir, capsys):
    for rule, seconds in {"evaluate_run": 10, "evaluate_critic": 5}.items():
        benchmark(workdir, f"{rule}/cold/seed0", seconds)
    benchmark(workdir, "convert_checkpoint/cold/seed0/actor", 3)
    benchmark(workdir, "train_run/cold/seed0", 100)
    finished(workdir, "cold", 0)
    done = ["results/runs/cold/seed0/actor", "results/runs/cold/seed0/critic"]
    made(workdir, *done, "results/eval/runs/cold/seed0/summary.json")
    made(workdir, "results/eval/critics/cold/seed0/summary.json")
    finished(workdir, "cold", 1)
    made(workdir, "results/runs/cold/seed1/actor", "results/runs/cold/seed1/critic")
    logged(workdir, "cold", 2, 20)
    finished(workdir, "warm-frozen-m50", 0, "imported/results")
    finished(workdir, "warm-frozen-m50", 1)
    made(workdir, "logs/convert_checkpoint/warm-frozen-m50/seed1/actor.log")
    rows = once(workdir, capsys)
    assert rows["cold", "0"] == ["done", "40/40", "0.625", "–", "–"]
    assert rows["cold", "1"] == ["converted", "40/40", "0.625", "–", "0:00:15"]
    assert rows["cold", "2"] == ["stopped", "20/40", "0.200", "0.500", "0:01:01"]
    assert rows["warm-frozen-m50", "0"] == ["imported", "40/40", "0.625", "–", "–"]
    assert rows["warm-frozen-m50", "1"] == ["stopped", "40/40", "0.625", "–", "0:00:21"]
    assert rows["warm-frozen-m50", "2"] == ["waiting", "0/40", "–", "–", "0:02:01"]
    assert (
        "2 of 6 trainings are done, 1 of them imported; 0 at work; 0:03:38 left" in rows["", ""][0]
    )
    made(workdir, ".snakemake/locks/0.input.lock")
    assert once(workdir, capsys)["warm-frozen-m50", "1"][0] == "converting"
    assert (workdir / ".snakemake/locks/0.input.lock").read_text() == ""


def test_a_training_at_work_is_told_by_its_lock_and_none_is_taken(workdir):
    logged(workdir, "cold", 2, 10)
    folder = workdir / "results/checkpoints/cold/seed2"
    with run_lock(folder):
        lock = folder.with_name("seed2.lock")
        before = lock.read_text(), lock.stat().st_mtime_ns
        (found,) = (one for one in look(workdir).values() if one.running)
        assert (found.run, found.seed, found.stage, found.step) == ("cold", 2, "training", 10)
        assert found.pace == 2.0  # the first step, which pays for the start, does not count
        assert (lock.read_text(), lock.stat().st_mtime_ns) == before
        logged(workdir, "cold", 2, 12, attempt=1)
        assert look(workdir)["cold", 2].step == 12
    assert look(workdir)["cold", 2].stage == "stopped"


def test_what_took_how_long_is_unknown_at_first(workdir, capsys):
    rows = once(workdir, capsys)
    assert rows["cold", "0"] == ["waiting", "0/40", "–", "–", "?"]
    assert "no earlier job says what 6 take" in rows["", ""][0]


def test_those_at_work_are_shown_where_there_is_no_room_for_all(workdir):
    logged(workdir, "warm-frozen-m50", 1, 5)
    finished(workdir, "cold", 1)
    with run_lock(workdir / "results/checkpoints/warm-frozen-m50/seed1"):
        found = list(look(workdir).values())
    group = watch.table(found, Took(workdir), 2)
    rows = group.renderables[0]
    assert [list(column.cells) for column in rows.columns[:2]] == [
        ["warm-frozen-m50", "cold"],
        ["1", "1"],
    ]
    assert "and 4 more" in str(group.renderables[1])


def test_it_writes_nothing_and_ends_when_all_is_done(workdir):
    for run in ("cold", "warm-frozen-m50"):
        for seed in range(3):
            finished(workdir, run, seed, "imported/results")
    before = sorted(workdir.rglob("*"))
    command = [sys.executable, "-m", "criticflow", "watch", "--directory", str(workdir)]
    command += ["--configfile", str(workdir / "study.yaml"), "--every", "0.2"]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and "6 of 6 trainings are done" in done.stdout, done.stderr
    assert sorted(workdir.rglob("*")) == before


def test_it_is_opened_on_a_terminal_and_closed_at_will(workdir):
    command = [sys.executable, "-m", "criticflow", "watch", "--directory", str(workdir)]
    command += ["--configfile", str(workdir / "study.yaml"), "--every", "0.2"]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts"), "TERM": "xterm"}
    for size in ("COLUMNS", "LINES"):  # of the terminal that the tests run on
        env.pop(size, None)
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 100, 0, 0))
    watching = subprocess.Popen(
        command,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # As a shell on a terminal does; what runs in the background was told to ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    said = ""
    while "and 2 more" not in said:  # of six, four have room on a terminal of twelve lines
        said += os.read(terminal, 4096).decode()
    logged(workdir, "cold", 1, 7)
    while "7/40" not in said:
        said += os.read(terminal, 4096).decode()
    watching.send_signal(signal.SIGINT)
    with suppress(OSError):  # the terminal's end; a terminal that nobody reads would hold it up
        while rest := os.read(terminal, 4096).decode():
            said += rest
    assert watching.wait(60) == 0
    assert "Traceback" not in said
    os.close(terminal)
