"""Snakemake's plan behind an ``ancient`` input (its issue 4166), without and with our patch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import snakemake.api  # noqa: F401 (the other modules of Snakemake can be imported after it alone)
from snake import PROJECT
from snakemake.dag import DAG

from criticflow.planning.snakemake_patch import (
    passes_over_ancient_inputs,
    plan_past_ancient_inputs,
)

CASE = """
rule second:
    input: ancient("first.txt")
    output: "second.txt"
    params: setting=config["second"]
    shell: "echo {params.setting} > {output}"

rule first:
    output: "first.txt"
    params: setting=config["first"]
    shell: "echo {params.setting} > {output}"
"""
PATCH = """
from criticflow.planning.snakemake_patch import plan_past_ancient_inputs

plan_past_ancient_inputs()
"""


def planned(folder: Path, text: str, first: int, second: int, *arguments: str) -> set[str]:
    """Run it with these settings; the rules that it plans or runs."""
    (folder / "Snakefile").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    command += ["--config", f"first={first}", f"second={second}"]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.MULTILINE))


@pytest.fixture
def made(tmp_path) -> Path:
    """Both files, made with the same settings."""
    assert planned(tmp_path, CASE, 1, 1) == {"first", "second"}
    return tmp_path


def test_snakemake_still_forgets_what_is_out_of_date_behind_an_ancient_input(made):
    found = planned(made, CASE, 2, 2, "--dry-run")
    fault = found == {"first"}
    assert fault or found == {"first", "second"}
    # No longer so: snakemake issue 4166 is mended, and the patch can go.
    assert fault == passes_over_ancient_inputs()


def test_with_the_patch_both_are_planned_and_the_ancient_input_alone_triggers_nothing(made):
    assert planned(made, PATCH + CASE, 2, 2, "--dry-run") == {"first", "second"}
    assert planned(made, PATCH + CASE, 1, 2, "--dry-run") == {"second"}
    assert planned(made, PATCH + CASE, 2, 1) == {"first"}
    assert (made / "second.txt").read_text() == "1\n"
    assert planned(made, PATCH + CASE, 2, 1, "--dry-run") == set()


def test_a_snakemake_that_is_mended_is_left_alone(monkeypatch):
    async def mended(dag: DAG, *_: object) -> None:
        """Whatever it does, it leaves out nothing of what is downstream."""

    monkeypatch.setattr(DAG, "update_needrun", mended)
    plan_past_ancient_inputs.__wrapped__()
    assert DAG.update_needrun is mended
