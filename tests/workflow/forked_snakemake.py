"""Snakemake as a fork of a process that has imported it (``snake.py``)."""

import os
import sys
from pathlib import Path

from snakemake.cli import main
from snakemake.executors.touch import Executor

import criticflow

# The package is that of the project under test, as for a new interpreter.
scripts = os.environ["PYTHONPATH"].split(os.pathsep)
if Path(criticflow.__file__).parents[1] != Path(scripts[0]):
    for name in [name for name in sys.modules if name.partition(".")[0] == "criticflow"]:
        del sys.modules[name]
sys.path[:1] = scripts
Executor.SLEEPING_TIME = 0.01  # seconds from one touched job to the next; 0.1 by default
main()
