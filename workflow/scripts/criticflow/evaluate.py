"""``python -m criticflow.evaluate``: see :mod:`criticflow.stages.evaluate`."""

from criticflow.errors import run_program
from criticflow.stages.evaluate import main

if __name__ == "__main__":
    run_program(main)
