"""How long Snakemake needs to plan a study: CPU and wall time by number of runs.

    python benchmarks/bench_planning.py [--runs 50 100 200] [--seeds 5] [--finished]

Nothing is run: a grid of runs over the default's model and task is planned in a temporary
directory. ``--finished`` marks every output as made and asks again, which is what a second
`make run` does.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[1]


def study(runs: int, seeds: int) -> dict[str, Any]:
    """An overlay with that many runs, all but one of which take the critic of the first."""
    masks = {f"m{number:03}": {"reward_mask": {"ratio": number / runs}} for number in range(runs)}
    masks.pop("m000")
    frozen = {"critic": {"from": "cold", "freeze": True}}
    return {
        "seeds": list(range(seeds)),
        "runs": {
            "cold": {"model": "tiny", "task": "countdown-mini"},
            "constant": None,
            "warm-frozen": None,
            "constant-m50": None,
            "warm-frozen-m50": None,
        },
        "contrasts": [],
        "grid": {
            "runs": {
                "like": "cold",
                "factors": {"critic": {"warm-frozen": frozen}, "mask": masks},
            }
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--finished", action="store_true", help="plan where everything is made")
    arguments = parser.parse_args()
    print("runs  seeds   jobs   CPU s  wall s  CPU ms a job")
    for runs in arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            settings = Path(folder) / "study.yaml"
            settings.write_text(yaml.safe_dump(study(runs, arguments.seeds)), encoding="utf-8")
            if arguments.finished:
                finish(Path(folder), settings)
            jobs, cpu, wall = plan(Path(folder), settings)
        a_job = f"{1000 * cpu / jobs:8.1f}" if jobs else "        "
        print(
            f"{runs:4}  {arguments.seeds:5}  {jobs:5}  {cpu:6.1f}  {wall:6.1f}  {a_job}", flush=True
        )


def plan(folder: Path, settings: Path) -> tuple[int, float, float]:
    """Jobs of a dry run, its CPU seconds (user and system) and its wall seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    lines = snakemake(folder, settings, "--dry-run", "--quiet", "rules").splitlines()
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    total = next((line.split()[1] for line in lines if line.startswith("total ")), "0")
    return int(total), cpu, wall


def finish(folder: Path, settings: Path) -> None:
    """Every output there, empty, and known to Snakemake as up to date."""
    for line in snakemake(folder, settings, "--summary").splitlines()[1:]:
        path = folder / line.split("\t")[0]
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.touch()
    snakemake(folder, settings, "--touch", "--forceall", "--cores", "1")


def snakemake(folder: Path, settings: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder)]
    command += ["--snakefile", str(PROJECT / "workflow" / "Snakefile")]
    command += ["--configfile", str(settings), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout + ("" if "--summary" in arguments else done.stderr)


if __name__ == "__main__":
    main()
