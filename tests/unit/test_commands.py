"""The command ``criticflow``: what it offers, and that help needs nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from criticflow.__main__ import dispatch
from criticflow.commands import COMMANDS
from criticflow.errors import UserError

HEAVY = ("ray", "torch", "transformers", "verl", "vllm")


def criticflow(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "criticflow", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def test_without_a_command_it_says_what_there_is():
    done = criticflow()
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_input_output_and_an_example_and_imports_nothing_heavy(name):
    code = (
        "import sys\nfrom criticflow.__main__ import dispatch\n"
        f"try:\n    dispatch(['{name}', '--help'])\nexcept SystemExit as end:\n"
        "    assert not end.code\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("input:", "output:", "example", f"criticflow {name}"):
        assert word in done.stdout


def test_a_command_runs(capsys):
    line = '{"response": "#### 4", "ground_truth": "4"}\n'
    done = criticflow("score", "--task", "gsm8k", given=line)
    assert done.returncode == 0, done.stderr
    assert '"correct": true' in done.stdout


def test_an_unknown_command_is_one_line():
    with pytest.raises(UserError, match="no command 'learn': there is init, train, convert"):
        dispatch(["learn"])
    done = criticflow("learn")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
