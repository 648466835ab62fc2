"""Where the project may lie: what works under a path, and what is refused at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snake import PROJECT, SNAKEFILE, snakemake


def make(folder: Path) -> subprocess.CompletedProcess[str]:
    """``make run`` in a fresh checkout at ``folder``, where no Python is good enough."""
    folder.mkdir()
    shutil.copy(PROJECT / "Makefile", folder)
    shutil.copy(PROJECT / "pyproject.toml", folder)
    shutil.copytree(PROJECT / "requirements", folder / "requirements")
    command = ["make", "run", "PYTHON=/bin/false"]
    # A make above this one, as in `make test`, would change what this one says.
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["two words", "it's", "a$b", "(copy)"])
def test_make_refuses_a_path_that_snakemake_cannot_use_in_one_line(tmp_path, name):
    done = make(tmp_path / name)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("make: "))
    assert line.startswith(f"error: {tmp_path / name}: Snakemake does not quote the path")
    assert not (tmp_path / name / ".venv").exists()


@pytest.mark.parametrize("name", ["Käse", "研究", "a+b_1.2-x"])
def test_make_takes_letters_of_any_alphabet(tmp_path, name):
    assert "error: /bin/false is not Python 3.11 or 3.12" in make(tmp_path / name).stderr


def test_without_make_snakemake_itself_says_so(tmp_path):
    python = tmp_path / "two words" / "bin" / "python"
    shutil.copytree(Path(sys.prefix) / "bin", python.parent, symlinks=True)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", python.parents[1])
    (python.parents[1] / "lib").symlink_to(Path(sys.prefix) / "lib")
    command = [str(python), "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--cores", "1"]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    done = subprocess.run(
        [*command, "data"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{python}: Snakemake does not quote the path of its Python" in done.stderr
    assert not (tmp_path / "results").exists()


def test_results_may_lie_under_any_path(tmp_path):
    workdir = tmp_path / "zwei Wörter, it's 研究"
    workdir.mkdir()
    done = snakemake(workdir, "--cores", "1", "data")
    assert done.returncode == 0, done.stderr
    assert (workdir / "results/data/countdown-mini/train.parquet").exists()
    # Nothing is said of what these jobs did not make.
    assert "criticflow: done." in done.stderr.splitlines()


def test_the_package_of_another_checkout_is_refused_in_one_line(tmp_path):
    other = tmp_path / "other" / "criticflow"
    shutil.copytree(PROJECT / "workflow/scripts/criticflow", other)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--dry-run"]
    env = os.environ | {"PYTHONPATH": str(other.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    output = done.stdout + done.stderr
    (line,) = [line for line in output.splitlines() if "take the other out of PYTHONPATH" in line]
    assert str(other) in line and str(PROJECT / "workflow") in line
    assert "Traceback" not in output
    assert not (tmp_path / ".snakemake/criticflow.flock").exists()


def test_its_own_package_may_be_found_by_another_name_of_its_folder(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(PROJECT)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--dry-run"]
    env = os.environ | {"PYTHONPATH": str(link / "workflow/scripts")}
    done = subprocess.run(
        [*command, "data"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
