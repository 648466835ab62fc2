"""``python -m criticflow.score``: see :mod:`criticflow.commands.score`."""

from criticflow.commands.score import main
from criticflow.errors import run_program

if __name__ == "__main__":
    run_program(main)
