"""The plugin is in every process of a training job, or that process stops and says why."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

OTHER_RELEASE = """
import importlib.metadata as metadata
original = metadata.version
metadata.version = lambda name: "0.9.2" if name == "verl" else original(name)
"""
HIDDEN = """
import sys
sys.modules["criticflow.verl_plugin.plugin"] = None
"""


def python(
    folder, code: str, *, start: str = "", **environment: str
) -> subprocess.CompletedProcess:
    """Run ``code`` in a Python that runs ``start`` first."""
    (folder / "sitecustomize.py").write_text(start, encoding="utf-8")
    env = {"VERL_PLATFORM": "cpu", "PYTHONPATH": str(folder), **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


NAMED = {"VERL_USE_EXTERNAL_MODULES": "criticflow.verl_plugin.plugin"}


def test_the_training_command_names_the_plugin_for_every_process_of_the_job(tmp_path):
    code = "import os; from criticflow.commands import train; train.require_plugin(); "
    code += "print(os.environ)"
    done = python(tmp_path, code, VERL_USE_EXTERNAL_MODULES="other.module")
    assert (
        "'VERL_USE_EXTERNAL_MODULES': 'other.module,criticflow.verl_plugin.plugin'" in done.stdout
    )


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (OTHER_RELEASE, "criticflow is tested with verl 0.9.1, installed is 0.9.2"),
        (HIDDEN, "criticflow.verl_plugin.plugin"),
    ],
    ids=["another release of verl", "the plugin cannot be imported"],
)
def test_a_process_that_cannot_load_the_plugin_stops(tmp_path, start, message):
    done = python(tmp_path, "import verl; print('went on')", start=start, **NAMED)
    assert done.returncode != 0 and "went on" not in done.stdout
    assert message in done.stderr


def test_a_vllm_process_with_another_release_stops(tmp_path):
    code = "from criticflow.verl_plugin.vllm_cpu import register; register(); print('went on')"
    done = python(tmp_path, code, start=OTHER_RELEASE)
    assert done.returncode != 0 and "went on" not in done.stdout
    assert "installed is 0.9.2" in done.stderr
