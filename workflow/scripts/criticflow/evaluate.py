"""``python -m criticflow.evaluate``: see :mod:`criticflow.commands.evaluate`."""

from criticflow.commands.evaluate import main
from criticflow.errors import run_program

if __name__ == "__main__":
    run_program(main)
