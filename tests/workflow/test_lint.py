"""The workflow's own formatting and lint."""

from __future__ import annotations

import re
import subprocess
import sys

from snake import PROJECT, snakemake

# Rules run in the environment that Snakemake itself runs in, .venv with its lock files: one
# environment, checked in, instead of one per rule.
ACCEPTED = {"Specify a conda environment or container for each rule."}


def test_snakemake_finds_nothing_to_complain_about(tmp_path):
    done = snakemake(tmp_path, "--lint")
    found = set(re.findall(r"^    \* (.*):$", done.stdout + done.stderr, re.MULTILINE))
    assert found == ACCEPTED


def test_the_rules_are_formatted():
    command = [sys.executable, "-m", "snakefmt", "--check", "workflow"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
