"""A digest of the code that a rule depends on, as one of its params.

A rule reruns when code that it uses changes, and only then. The files are not inputs: about forty
for each rule would be nine tenths of all that Snakemake looks at, job by job, and a study of 5,000
jobs would take three times as long to plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from criticflow.code import code_digest
from criticflow.planning.sources import PACKAGE, ROOT, source_files, training_files

_digest = cache(code_digest)  # of each file once in a process


@cache
def code(*roots: str, data: str | None = None) -> str:
    """SHA-256 of what the files do that ``roots`` need (:func:`source_files`).

    Args:
        roots: modules and scripts.
        data: further files of the package, as a pattern: templates, which nothing imports.
    """
    return _together([*source_files(*roots), *((ROOT / PACKAGE).glob(data) if data else ())])


@cache
def training_code(task_kind: str) -> str:
    """SHA-256 of what the files do that can change the weights of a training on a kind of task."""
    return _together(training_files(task_kind))


def _together(files: Iterable[Path]) -> str:
    """Names count below the package's folder, so a checkout elsewhere gives the same digest."""
    lines = sorted(f"{path.relative_to(ROOT).as_posix()} {_digest(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
