"""The Snakemake report, made from within the workflow that it reports on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from criticflow.config.load import DESCRIPTION
from criticflow.errors import UserError
from criticflow.files import replacing


def render(snakefile: Path, config: Mapping[str, Any], targets: Sequence[str], out: Path) -> None:
    """Run ``snakemake --report`` for ``targets``, which exist already, and write ``out``.

    A report is a second Snakemake over finished files. It takes no lock, makes nothing, and its
    graph ends at ``targets``, so the running workflow and its unfinished rule don't concern it.
    Everything that the page needs (scripts, styles) comes with Snakemake's package and is written
    into it: neither making nor reading it needs a network.

    Raises:
        UserError: Snakemake refused; the log says why.
    """
    with tempfile.TemporaryDirectory() as folder, replacing(out) as partial:
        settings = Path(folder) / "config.yaml"
        given = {key: value for key, value in config.items() if key != DESCRIPTION}
        settings.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
        command += ["--configfile", str(settings), "--workflow-profile", "none", "--nolock"]
        command += ["--report", str(page), "--", *targets]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
        if code:
            raise UserError(f"snakemake --report ended with exit code {code}: see this rule's log")
        shutil.move(page, partial)
