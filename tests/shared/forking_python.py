"""Python for tests that start many programs with libraries that take seconds to import."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HOLD = """
import importlib, sys
from pathlib import Path
from criticflow.runtime.fork_server import start_fork_server
from criticflow.collection import collect_seldom
collect_seldom()
for name in sys.argv[2:]:
    importlib.import_module(name)
print(start_fork_server(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
"""Imports modules, and forks programs from there until its input ends."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""Variables without which libraries start threads of their own, and cannot be forked."""

_holders: list[object] = []
"""Kept until the tests end, and their input with them."""


@functools.cache
def forking_python(
    *modules: str, folder: Path = Path(), variables: tuple[tuple[str, str], ...] = ()
) -> str:
    """What takes the place of ``python`` for programs that need ``modules``: they start as forks of
    one process that has imported them.

    Args:
        folder: working directory in which they are imported.
        variables: of the environment meanwhile, names and values.
    """
    place = tempfile.TemporaryDirectory(prefix="forking")
    holder = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLD, place.name, *modules],
        cwd=folder,
        env=os.environ | ONE_THREAD | dict(variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    _holders.append((place, holder))
    interpreter = f"{place.name}/python"
    for line in iter(holder.stdout.readline, ""):  # libraries write there too
        if line.strip() == interpreter:
            return interpreter
    raise RuntimeError(f"{', '.join(modules)}: not imported, or not to be forked; see above")
