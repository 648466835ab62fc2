"""Live progress: the stages' bars and the trainings' table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest
from snake import PROJECT, SNAKEFILE, TWO_RUNS, snakemake

pytest.importorskip("snakemake_logger_plugin_rich", reason="the lock has it; see make setup")

DATA = ["--snakefile", str(SNAKEFILE), "--cores", "1", "data"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(term: str) -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT / "workflow/scripts"), os.environ.get("PYTHONPATH", "")])
    made = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return made | {"PYTHONPATH": path.rstrip(os.pathsep), "TERM": term}


def make_run(folder: Path) -> list[str]:
    """``make run`` of this environment, which only plans, in ``folder``."""
    (folder / "stamp").touch()  # newer than the lock: nothing is set up
    command = ["make", "run", f"BIN={Path(sys.executable).parent}", f"STAMP={folder / 'stamp'}"]
    return [*command, f"ARGS=data --dry-run --directory {folder}"]


def on_a_terminal(command: Sequence[str], cwd: Path, term: str = "xterm") -> str:
    """What a command shows on a terminal of 110 columns, without what moves the cursor."""
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    running = subprocess.Popen(
        command, cwd=cwd, env=environment(term), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # its end
            break
    os.close(terminal)
    shown = CONTROL.sub("", said.decode(errors="replace"))
    assert running.wait(60) == 0, shown
    return shown


def test_a_terminal_shows_stages_and_trainings_and_every_message(tmp_path):
    (tmp_path / "study.yaml").write_text("seeds: [0, 7]\n", encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", *DATA, "--logger", "rich"]
    shown = on_a_terminal([*command, "--configfile", "study.yaml"], tmp_path)
    assert "Total Progress" in shown and "prepare data" in shown  # the plugin's bars
    assert re.search(r"cold +7 +waiting +0/40", shown)
    assert "0 of 10 trainings are done" in shown
    assert "criticflow: done." in shown
    assert "Traceback" not in shown and "Error" not in shown


def test_what_jobs_say_stands_above_the_display(tmp_path):
    """A job's own process writes to the terminal: each line as a whole, before the bars."""
    few = {"numbers": [2], "high": 3, "problems": 2000}
    tasks = {"countdown-mini": {"source": {"generate": few}}}
    overlay = TWO_RUNS | {"tasks": tasks}
    plain = snakemake(tmp_path, "--cores", "1", "data", overlay=overlay)
    (line,) = [line for line in plain.stderr.splitlines() if "but there are only" in line]
    command = [sys.executable, "-m", "snakemake", *DATA, "--logger", "rich"]
    shown = on_a_terminal(
        ["sh", "-c", f"{' '.join(command)} --configfile overlay.yaml || true"], tmp_path
    )
    assert "log of the failed job: logs/prepare_data/countdown-mini.log" in shown
    assert line in " ".join(shown.replace("\r", "").split("\n"))


@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False)])
def test_make_run_chooses_by_the_terminal(tmp_path, term, live):
    shown = on_a_terminal(make_run(tmp_path), PROJECT, term)
    assert ("Job stats:" in shown) != live  # as Snakemake itself heads the table
    assert "prepare_data" in shown or "prepare data" in shown


def test_without_a_terminal_make_run_prints_plain_lines(tmp_path):
    command = make_run(tmp_path)
    env = environment("xterm")
    done = subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout + done.stderr
    assert "Job stats:" in done.stdout
