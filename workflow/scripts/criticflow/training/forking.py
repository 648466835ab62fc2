"""Starts verl's processes on a node as forks of one that has imported their libraries."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_EACH = "criticflow.verl_plugin.preload"
_WORKERS = "criticflow.verl_plugin.preload_workers"


def forking_python(folder: Path) -> str | None:
    """Import the libraries that verl's processes need, and start a server of forks of this process.

    What the training itself does not need the server imports while the training goes on.

    Args:
        folder: for its files; nobody else may enter it.

    Returns:
        What takes the place of ``python``. None where a library has started a thread, or imported
        Ray, since then nothing can be forked safely. In a fork the function does not return
        (:func:`criticflow.runtime.fork_server.start_fork_server`).
    """
    importlib.import_module(_EACH)
    from criticflow.runtime import fork_server

    if "ray" in sys.modules or not fork_server.single_threaded():
        print("processes are not forked: a library has started a thread or imported Ray")
        return None
    prepare = lambda: importlib.import_module(_WORKERS)  # noqa: E731
    return str(fork_server.start_fork_server(folder, prepare))
