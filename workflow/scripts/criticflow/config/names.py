"""Names in the configuration, and where the files of a run lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
RUN_PATTERN = rf"{_SEGMENT}(?:/{_SEGMENT})*"
"""A run's name, as a regular expression: it is a folder below ``results/runs``, and a wildcard."""

_SEED_FOLDER = re.compile(r"seed-?\d+")
_OF_A_RUN = re.compile(
    r".*\b(?:results/runs|eval/runs|eval/critics|eval/tempered)/(?P<run>.+?)/seed(?P<seed>-?\d+)(?:/|$)"
)


def _no_seed_folder(name: str) -> str:
    """Below ``results/runs/{run}`` lie ``seed0``, ``seed1``, ...: a part of a name is none."""
    if any(_SEED_FOLDER.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"{name}: a part of a run's name cannot be called like a seed's folder")
    return name


Name = Annotated[str, Field(pattern=rf"^{_SEGMENT}$")]
RunName = Annotated[str, Field(pattern=rf"^{RUN_PATTERN}$"), AfterValidator(_no_seed_folder)]


def run_and_seed(path: Path) -> tuple[str, int]:
    """Run and seed that a file of ``results/runs`` or of ``results/eval`` belongs to.

    Raises:
        ValueError: the path is no run's.
    """
    found = _OF_A_RUN.match(path.as_posix())
    if found is None:
        raise ValueError(f"{path} is not below results/runs/RUN/seedN")
    return found["run"], int(found["seed"])


def by_run_and_seed(paths: Iterable[Path]) -> dict[str, dict[int, Path]]:
    """Files of the same kind, by run and seed."""
    found: dict[str, dict[int, Path]] = {}
    for path in paths:
        run, seed = run_and_seed(path)
        found.setdefault(run, {})[seed] = path
    return found
