"""SIGKILL to Snakemake at random moments of the default pipeline, each followed by a plain rerun.

    python benchmarks/random_kills.py                        # 10 kills, two hours on two cores
    python benchmarks/random_kills.py --kills 3 --seed 1 --out kills.md

The study of the end-to-end tests is made once without interruption. Then, for each kill, it is
started in a fresh directory, Snakemake's own process is killed at a moment drawn uniformly from the
first study's duration, and when no process is left the same command is given again, without
unlocking or cleaning. The rerun must finish, every step stand in the metrics once, and the summary
and all weights be what they were without interruption. A Markdown table grows by a row per kill;
the directory of a rerun that fell short is kept. Exit code 1 if one did.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from small_study import PROJECT, RUNS, STEPS, TIMEOUT, command, processes_in

from criticflow.logs import TERMINAL

PATIENCE = 60.0
"""Seconds in which everything has to end after a kill."""
TRIES = 3
"""How often the command is given again at most; a rerun is good if the first one finishes."""
LIMIT = 4 * TIMEOUT
"""Seconds that a study may take, on a busy machine too."""
HEADER = (
    "| kill | after, s | jobs done | running | all ended, s | reruns, s | their exit codes "
    "| steps made, gone on from | steps lost | every step once | as uninterrupted |"
)


class FinishedEarly(RuntimeError):
    """A study ended before it could be killed."""


@dataclass
class Study:
    """A study in a directory of its own; the terminal of each attempt is kept there."""

    workdir: Path

    def start(self, attempt: str) -> subprocess.Popen[bytes]:
        with open(self.workdir / attempt, "wb") as terminal:
            return subprocess.Popen(
                command(self.workdir),
                cwd=PROJECT,
                stdout=terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, attempt: str) -> tuple[int, float]:
        """Exit code, of SIGKILL if it took too long, and seconds."""
        began = time.monotonic()
        snakemake = self.start(attempt)
        if wait_for(lambda: snakemake.poll() is not None, LIMIT) is None:
            snakemake.kill()
        return snakemake.wait(), time.monotonic() - began

    def terminal(self, attempt: str) -> str:
        return (self.workdir / attempt).read_text(encoding="utf-8", errors="replace")

    def running(self) -> list[str]:
        """The rules whose jobs run at this moment, with their wildcards."""
        found = set()
        for process in processes_in(self.workdir):
            try:
                found.add(process.environ().get(TERMINAL, "").partition(":")[2])
            except psutil.Error:
                continue  # it has just ended
        return sorted(found - {""})

    def jobs_done(self, attempt: str) -> str:
        done = re.findall(r"(\d+ of \d+) steps \(", self.terminal(attempt))
        return done[-1] if done else "none"

    def steps_once(self) -> bool:
        tables = (
            pd.read_parquet(self.workdir / f"results/runs/{run}/seed0/metrics.parquet")
            for run in RUNS
        )
        return all(list(table["step"]) == list(range(1, STEPS + 1)) for table in tables)

    def outcome(self) -> dict[str, bytes]:
        """The summary and all weights."""
        results = self.workdir / "results"
        files = [results / "summary.json", *results.glob("runs/*/seed0/*/model.safetensors")]
        return {str(path.relative_to(results)): path.read_bytes() for path in files}


def wait_for(done: Callable[[], object], seconds: float) -> float | None:
    """Seconds until it was so; None if it was not."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.2)
    return time.monotonic() - began


def resumed(before: str, after: str) -> dict[str, tuple[int, int]]:
    """Runs whose training was cut off: steps made, and the step that the rerun went on from.

    Args:
        before, after: terminals of the killed attempt and of the rerun.
    """
    found = {}
    for run in RUNS:
        name = rf"^\[train_run\w* {run} 0\] "
        again = re.search(rf"{name}starting verl from step (\d+)", after, re.MULTILINE)
        if again and re.search(f"{name}starting verl", before, re.MULTILINE):
            made = re.findall(rf"{name}step (\d+)/", before, re.MULTILINE)
            found[run] = (int(made[-1]) if made else 0, int(again[1]))
    return found


def kill_and_rerun(study: Study, moment: float, expected: dict[str, bytes]) -> tuple[bool, list]:
    """Whether all was well, and the row's cells.

    Raises:
        FinishedEarly: the study had finished by then.
    """
    snakemake = study.start("killed")
    if wait_for(lambda: snakemake.poll() is not None, moment) is not None:
        raise FinishedEarly(f"finished within {moment:.0f} s")
    running = study.running()
    snakemake.kill()
    snakemake.wait()
    ended = wait_for(lambda: not processes_in(study.workdir), PATIENCE)
    for process in processes_in(study.workdir) if ended is None else ():
        process.kill()

    codes, seconds = [], []
    while len(codes) < TRIES and 0 not in codes:
        code, time_taken = study.finish(f"rerun-{len(codes) + 1}")
        codes.append(code)
        seconds.append(time_taken)
    once = 0 in codes and study.steps_once()
    outcome = study.outcome() if 0 in codes else {}
    differ = sorted(name for name in expected if outcome.get(name) != expected[name])
    cut_off = resumed(study.terminal("killed"), study.terminal("rerun-1"))
    cells = [
        f"{moment:.0f}",
        study.jobs_done("killed"),
        ", ".join(running) or "none",
        f"over {PATIENCE:.0f}" if ended is None else f"{ended:.1f}",
        ", ".join(f"{one:.0f}" for one in seconds),
        ", ".join(map(str, codes)),
        ", ".join(f"{run}: {made}, {start}" for run, (made, start) in cut_off.items()),
        sum(max(0, made - start) for made, start in cut_off.values()),
        "yes" if once else "no",
        f"no: {', '.join(differ)}" if differ else "yes",
    ]
    return codes == [0] and once and not differ and ended is not None, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the studies are made (default: /tmp)")
    parser.add_argument("--out", type=Path, help="a file for the table, besides the terminal")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="random-kills-", dir=arguments.folder))
    try:
        well = measure(folder, arguments.kills, arguments.seed, arguments.out)
    finally:
        for process in processes_in(folder):
            process.kill()
    if not well:
        sys.exit(f"what fell short is in {folder}")
    shutil.rmtree(folder)


def measure(folder: Path, kills: int, seed: int, out: Path | None) -> bool:
    """Make and print the table; whether every rerun was as it should be."""
    if out:
        out.write_text("", encoding="utf-8")

    def say(line: str) -> None:
        print(line, flush=True)
        if out:
            with open(out, "a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def fresh(name: str) -> Study:
        (folder / name).mkdir()
        return Study(folder / name)

    uninterrupted = fresh("uninterrupted")
    code, duration = uninterrupted.finish("terminal")
    if code:
        sys.exit(f"the uninterrupted study ended with exit code {code}: see {folder}")
    expected = uninterrupted.outcome()
    say(f"Uninterrupted: {duration:.0f} s. Moments drawn with seed {seed}.\n")
    say(HEADER)
    say("|" + "---|" * HEADER.count(" |"))
    moments = random.Random(seed)
    done, well = 0, 0
    while done < kills:
        study = fresh(f"kill-{done + 1}")
        try:
            good, cells = kill_and_rerun(study, moments.uniform(0, duration), expected)
        except FinishedEarly as early:
            print(f"drawn again: the study {early}", file=sys.stderr, flush=True)
            shutil.rmtree(study.workdir)
            continue
        done, well = done + 1, well + good
        say(f"| {' | '.join(map(str, [done, *cells]))} |")
        if good:
            shutil.rmtree(study.workdir)
    say(f"\n{well} of {done} reruns finished with every step once, equal to the uninterrupted.")
    return well == done


if __name__ == "__main__":
    main()
