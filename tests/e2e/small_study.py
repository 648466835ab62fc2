"""Two runs of the default study with a small budget, in a directory of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import yaml

PROJECT = Path(__file__).parents[2]
RUNS = ("cold", "warm-frozen-m50")
TIMEOUT = 900
"""Seconds, against a hang; it takes some minutes."""

SMALL = yaml.safe_load((PROJECT / ".test" / "small.yaml").read_text(encoding="utf-8"))
STEPS = SMALL["train"]["steps"]


def command(workdir: Path) -> list[str]:
    """What makes the study in ``workdir``, whose configuration is written; from :data:`PROJECT`."""
    settings = workdir / "small.yaml"
    settings.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    snakefile = PROJECT / "workflow" / "Snakefile"
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "all", "--snakefile", str(snakefile)]
    return [*snakemake, "--directory", str(workdir), "--configfile", str(settings)]


def processes_in(folder: Path) -> list[psutil.Process]:
    """All processes that work in ``folder``, as all that a study starts does."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:
            continue  # it ended meanwhile, or is somebody else's
    return found
