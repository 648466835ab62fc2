"""Live progress: the stages' bars and the trainings' table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from snake import PROJECT, SNAKEFILE, TWO_RUNS, snakemake
from test_processes import wait_for

pytest.importorskip("snakemake_logger_plugin_rich", reason="the lock has it; see make setup")

DATA = ["--snakefile", str(SNAKEFILE), "--cores", "1", "data"]
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(term: str) -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT / "workflow/scripts"), os.environ.get("PYTHONPATH", "")])
    made = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return made | {"PYTHONPATH": path.rstrip(os.pathsep), "TERM": term}


def make_run(folder: Path, more: str = "--dry-run") -> list[str]:
    """``make run`` of this environment, of the data alone, in ``folder``."""
    (folder / "stamp").touch()  # newer than the lock: nothing is set up
    command = ["make", "run", f"BIN={Path(sys.executable).parent}", f"STAMP={folder / 'stamp'}"]
    return [*command, f"ARGS=data --directory {folder} {more}"]


def on_a_terminal(
    command: Sequence[str], cwd: Path, term: str = "xterm", stop_when: Path | None = None
) -> str:
    """What a command writes to a terminal of 110 columns of its own.

    Args:
        stop_when: Ctrl-C is typed when there is such a file.
    """
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    before = termios.tcgetattr(theirs)
    running = subprocess.Popen(
        ["setsid", "--ctty", *command],
        cwd=cwd,
        env=environment(term),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    said: list[bytes] = []
    reader = threading.Thread(target=lambda: said.extend(until_its_end(terminal)))
    reader.start()
    if stop_when is not None:
        wait_for(stop_when.exists)
        os.write(terminal, b"\x03")
    code = running.wait(90)
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    reader.join()
    os.close(terminal)
    shown = b"".join(said).decode(errors="replace")
    assert (code == 0) == (stop_when is None), shown
    return shown


def until_its_end(terminal: int) -> Iterator[bytes]:
    with suppress(OSError):  # its end
        while True:
            yield os.read(terminal, 65536)


def text(shown: str) -> str:
    """Without what moves the cursor."""
    return CONTROL.sub("", shown)


def test_a_terminal_shows_stages_and_trainings_and_every_message(tmp_path):
    (tmp_path / "study.yaml").write_text("seeds: [0, 7]\n", encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", *DATA, "--logger", "rich"]
    shown = text(on_a_terminal([*command, "--configfile", "study.yaml"], tmp_path))
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
    lenient = f"{' '.join(command)} --configfile overlay.yaml || true"
    shown = text(on_a_terminal(["sh", "-c", lenient], tmp_path))
    assert "log of the failed job: logs/prepare_data/countdown-mini.log" in shown
    assert line in " ".join(shown.replace("\r", "").split("\n"))


@pytest.mark.parametrize(("term", "live"), [("xterm", True), ("dumb", False)])
def test_make_run_chooses_by_the_terminal(tmp_path, term, live):
    shown = text(on_a_terminal(make_run(tmp_path), PROJECT, term))
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


ENDING = """
import os, threading, time
from rich.console import Console
from rich.live import Live
from criticflow.commands.live import _lead_stderr_through

class Display:
    def __rich_console__(self, console, options):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1)  # around a job's line
        yield "the display"

live = Live(Display(), console=Console(stderr=True), transient=True, auto_refresh=False)
live.start(refresh=True)
_lead_stderr_through(live)
os.write(2, b"a job's line\\n")
time.sleep(0.3)
live.stop()
"""


def test_a_line_that_meets_the_end_of_the_display_does_not_draw_it_again(tmp_path):
    shown = on_a_terminal([sys.executable, "-c", ENDING], tmp_path)
    drawn, ended = shown.rsplit(SHOWN, 1)
    assert "a job's line" in drawn and "the display" in drawn
    assert "the display" not in ended


def test_ctrl_c_leaves_a_usable_terminal_and_a_study_that_goes_on(tmp_path):
    """Typed while ``make run`` makes many problems, under the live display."""
    many = {"numbers": [3], "high": 90, "problems": 30000}
    task = {"kind": "countdown", "prompt": "{numbers} = {target}", "source": {"generate": many}}
    lengths = {"max_prompt_length": 32, "max_response_length": 24}
    overlay = {
        "tasks": {"many": task | lengths | {"split": {"val": 16, "test": 16}}},
        "runs": {"on-many": {"like": "cold", "task": "many"}},
    }
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    command = make_run(tmp_path, f"--configfile {tmp_path}/overlay.yaml")
    shown = on_a_terminal(command, PROJECT, stop_when=tmp_path / "logs/prepare_data/many.log")
    drawn, ended = shown.rsplit(HIDDEN, 1)[1].rsplit(SHOWN, 1)  # the cursor, at last
    assert "Workflow Progress" in drawn and "Workflow Progress" not in ended
    said = text(shown)
    assert "criticflow: stopped." in said and "the same command goes on from there" in said
    assert "[prepare_data many] ended by signal 2" in said
    again = subprocess.run(
        command, cwd=PROJECT, env=environment("xterm"), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "results/data/many/manifest.json").exists()
