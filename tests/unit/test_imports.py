"""Which folder of the package may import which (the contracts stand in pyproject.toml)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "workflow" / "scripts" / "criticflow"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts, checked on the package in ``folder``."""
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        f"sys.path.insert(0, {str(folder)!r}); "
        f"sys.exit(lint_imports({str(PROJECT / 'pyproject.toml')!r}, no_cache=True))"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )


def test_imports_run_one_way():
    done = lint(PACKAGE.parent)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("stats/outcomes.py", "from criticflow.models import sampling"),
        ("config/study.py", "import criticflow.tasks"),
        ("verl_plugin/stopping.py", "import psutil"),
        ("verl_plugin/plugin.py", "from criticflow.runtime import run_lock"),
        ("checkpoint/retention.py", "from criticflow.training import job"),
    ],
)
def test_an_import_that_climbs_is_found(tmp_path, module, line):
    shutil.copytree(PACKAGE, tmp_path / "criticflow", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "criticflow" / module, "a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
