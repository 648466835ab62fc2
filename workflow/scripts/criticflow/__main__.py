"""``criticflow COMMAND``, also as ``python -m criticflow COMMAND``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from criticflow.commands import COMMANDS
from criticflow.errors import UserError, run_program


def usage() -> str:
    """What commands there are."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: criticflow COMMAND ...",
            "",
            *lines,
            "",
            "criticflow COMMAND --help says what a command reads and writes, with an example.",
            "The whole study: snakemake --cores all, or make run (see README.md).",
        ]
    )


def dispatch(arguments: Sequence[str]) -> None:
    """Call one command.

    Raises:
        UserError: there is no such command, or it says so.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}: there is {', '.join(COMMANDS)}")
    importlib.import_module(f"criticflow.commands.{name}").main(rest)


def main() -> None:
    """The console script ``criticflow``."""
    run_program(lambda: dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
