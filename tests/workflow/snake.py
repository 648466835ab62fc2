"""Running this workflow's Snakemake in a temporary directory, and reading what it would do."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from forking_python import forking_python

PROJECT = Path(__file__).parents[2]
SNAKEFILE = PROJECT / "workflow" / "Snakefile"
HERE = Path(__file__).parent
FORKED = HERE / "forked_snakemake.py"

RUNS = ["cold", "constant", "warm-frozen", "constant-m50", "warm-frozen-m50"]
TARGETS = {"all", "data", "probe", "train", "convert", "evaluate", "report"}
"""Rules that make nothing themselves; Snakemake never submits them."""
TWO_RUNS: dict[str, Any] = {
    "runs": {"constant": None, "warm-frozen": None, "constant-m50": None},
    "contrasts": [],
    "truth": {"actors": "all"},
    "tempered": {"actors": []},
}
"""An overlay that leaves a run whose critic learns and one that starts with it."""


def grid_of_critics(masks: dict[str, Any]) -> dict[str, Any]:
    """A grid: a constant critic, or that of ``cold`` frozen, at each level of the mask."""
    return {
        "like": "cold",
        "factors": {
            "critic": {
                "constant": {"critic": {"constant": 0.0, "freeze": True}},
                "warm-frozen": {"critic": {"from": "cold", "freeze": True}},
            },
            "mask": masks,
        },
    }


def snakemake(
    workdir: Path, *arguments: str, overlay: dict[str, Any] | None = None, project: Path = PROJECT
) -> subprocess.CompletedProcess[str]:
    """Run the workflow of ``project`` in ``workdir``, with ``overlay`` over its configuration."""
    python = forking_python("planned_once", folder=HERE)
    command = [python, str(FORKED), "--directory", str(workdir)]
    command += ["--snakefile", str(project / "workflow" / "Snakefile"), *arguments]
    if overlay is not None:
        settings = workdir / "overlay.yaml"
        settings.write_text(yaml.safe_dump(overlay), encoding="utf-8")
        command += ["--configfile", str(settings)]
    env = os.environ | {"PYTHONPATH": str(project / "workflow" / "scripts")}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def planned(workdir: Path, *arguments: str, **options: Any) -> Counter[str]:
    """How many jobs of each rule a dry run announces; the targets themselves are left out."""
    done = snakemake(workdir, "--dry-run", *arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    stats = re.search(r"^job +count\n-+ +-+\n(.*?)^total", done.stdout, re.MULTILINE | re.DOTALL)
    if stats is None:
        assert "Nothing to be done" in done.stdout + done.stderr
        return Counter()
    rows = (line.split() for line in stats[1].splitlines())
    return Counter({rule: int(count) for rule, count in rows if rule not in TARGETS})


def finish(workdir: Path, **options: Any) -> None:
    """Make every output of the workflow, empty where there is none, known as up to date."""
    listing = snakemake(workdir, "--summary", **options)
    assert listing.returncode == 0, listing.stderr
    for line in listing.stdout.splitlines()[1:]:
        path = workdir / line.split("\t")[0]
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:  # a model
            path.mkdir(parents=True, exist_ok=True)
    touched = snakemake(workdir, "--touch", "--forceall", "--cores", "1", **options)
    assert touched.returncode == 0, touched.stderr
