"""One exception for mistakes that a person can mend, and how programs report it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from criticflow.collection import collect_seldom


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    Raised for bad input (configuration, paths, data, checkpoints), never for a defect of ours: a
    defect keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run a program's main function; a :class:`UserError` becomes one line and exit code 2."""
    collect_seldom()
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
