"""What a study will cost: its jobs as Snakemake plans them, times what such jobs took earlier."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from criticflow.errors import UserError

TARGETS = {"all", "data", "probe", "train", "convert", "evaluate", "report"}
"""Rules that make nothing themselves."""
TABLES = "results/benchmarks"
"""Where the rules' benchmark tables lie in a working directory."""


@dataclass(frozen=True)
class Stage:
    """The jobs of one rule."""

    rule: str
    jobs: int
    to_do: int
    seconds: float | None
    """Median of the jobs of this rule that were run on this machine; None: there was none."""

    @property
    def remaining(self) -> float | None:
        """Seconds of what is to do, one job after the other."""
        return None if self.seconds is None else self.seconds * self.to_do


def stages(jobs: Mapping[str, int], to_do: Mapping[str, int], took: Took) -> list[Stage]:
    """Every rule that has a job, with its cost.

    Args:
        jobs: jobs of the whole study, by rule.
        to_do: those that a run would make now.
        took: of earlier jobs.
    """
    return [Stage(rule, jobs[rule], to_do.get(rule, 0), took.rule(rule)) for rule in jobs]


class Took:
    """Seconds that jobs took, from the benchmark tables of a working directory."""

    def __init__(self, directory: Path) -> None:
        self._of: dict[str, dict[str, float]] = {}
        for path in sorted((directory / TABLES).rglob("*.tsv")):
            job = path.relative_to(directory / TABLES).as_posix().removesuffix(".tsv")
            rule, _, name = job.partition("/")
            if (seconds := _seconds(path)) is not None:
                self._of.setdefault(rule, {})[name] = seconds

    def rule(self, rule: str) -> float | None:
        """Median of a rule's jobs; a rule that inherits another's tables shares them."""
        while rule and rule not in self._of:
            rule = rule.rpartition("_")[0]
        return statistics.median(self._of[rule].values()) if rule else None

    def training(self, run: str) -> float | None:
        """Median over the seeds of one run's training; if it has none, of all trainings."""
        trained = self._of.get("train_run", {})
        own = [seconds for job, seconds in trained.items() if job.rpartition("/")[0] == run]
        return statistics.median(own) if own else self.rule("train_run")


def planned(snakefile: Path, directory: Path, settings: Sequence[Path]) -> tuple[dict, dict]:
    """Jobs by rule, from two dry runs: of the whole study, and of what is not made yet.

    Args:
        snakefile: the workflow.
        directory: working directory, in which results lie.
        settings: configuration files over the default.

    Raises:
        UserError: Snakemake cannot plan it; the end of what it said follows.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--dry-run"]
    command += ["--directory", str(directory), "--nolock", "--quiet", "rules"]
    command += ["--configfile", *map(str, settings)] if settings else []
    with ThreadPoolExecutor() as pool:
        every, now = pool.map(_jobs, ([*command, "--forceall"], command))
    return every, now


def _jobs(command: Sequence[str]) -> dict[str, int]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"snakemake cannot plan this study: {' '.join(last[-3:])}")
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", done.stdout, re.MULTILINE | re.DOTALL)
    rows = (line.split() for line in table[1].splitlines()) if table else ()
    return {rule: int(count) for rule, count in rows if rule not in TARGETS}


def _seconds(path: Path) -> float | None:
    """The last row's ``s`` of a benchmark table; None where Snakemake could not measure it."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    if len(rows) < 2 or "s" not in rows[0]:
        return None
    try:
        return float(rows[-1][rows[0].index("s")])
    except ValueError:
        return None
