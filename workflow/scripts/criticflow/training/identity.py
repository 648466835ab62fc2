"""Which settings and inputs a checkpoint directory belongs to.

Raw checkpoints are not declared to Snakemake (it would delete them before a retry), so the
directory says itself what it was made from: a retry of the same run resumes, anything else starts
afresh.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from criticflow.files import read_json, sha256, write_json

logger = logging.getLogger(__name__)

NAME = "fingerprint.json"


def fingerprint(settings: dict[str, Any], inputs: list[Path]) -> dict[str, Any]:
    """Settings, and SHA-256 of every input file; a directory counts with all files in it."""
    files = [file for path in inputs for file in files_of(path)]
    return {"settings": settings, "inputs": {str(file): sha256(file) for file in files}}


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files below a directory, sorted."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path]


def claim(directory: Path, expected: dict[str, Any]) -> None:
    """Make ``directory`` belong to ``expected``; what belongs to something else is removed.

    What was different goes to the log.
    """
    stamp = directory / NAME
    if directory.exists():
        found = read_json(stamp) if stamp.is_file() else None
        if found == expected:
            return
        what = "it has no fingerprint" if found is None else "; ".join(differences(found, expected))
        logger.warning("%s starts afresh: %s", directory, what)
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    write_json(stamp, expected)


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Every value in which two nested dictionaries differ, as ``key: old -> new``."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            line
            for key in sorted(found.keys() | expected.keys())
            for line in differences(found.get(key), expected.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if found == expected else [f"{where}: {found} -> {expected}"]
