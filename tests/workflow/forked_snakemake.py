"""Snakemake as a fork of a process that has imported it (``snake.py``)."""

import os
import sys

from snakemake.cli import main

# The package is that of the project under test, as for a new interpreter; what is here of it came
# with the fork server.
for name in [name for name in sys.modules if name.partition(".")[0] == "criticflow"]:
    del sys.modules[name]
sys.path[:1] = os.environ["PYTHONPATH"].split(os.pathsep)
main()
