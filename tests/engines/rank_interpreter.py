"""Holds a fork server that has imported what ranks import, until standard input ends.

    python rank_interpreter.py FOLDER

Prints, on a line of its own, the interpreter that takes the place of ``python``. Ray is among the
libraries: its workers read variables while they import it, the ranks are none.
"""

import sys
from pathlib import Path

import engine_cases  # noqa: F401

from criticflow.runtime.fork_server import start_fork_server

print(start_fork_server(Path(sys.argv[1])), flush=True)
sys.stdin.read()
