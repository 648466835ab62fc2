"""A digest of the code that a rule depends on, as one of its params.

A rule reruns when code that it uses changes, and no rule else. As inputs the same files (about
forty a rule) were nine tenths of what Snakemake had to look at, job by job: a study of 5,000 jobs
took three times as long to plan.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

import yaml

from criticflow.planning.sources import package_data, sources

_ROOT = Path(__file__).resolve().parents[2]


@cache
def code(*roots: str, data: str | None = None) -> str:
    """SHA-256 of what the files do that ``roots`` need.

    Comments, docstrings and layout are no part of it, nor is where the files lie: a fresh checkout
    gives the same digest.

    Args:
        roots: modules and scripts, as for :func:`criticflow.planning.sources.sources`.
        data: a folder of the package whose YAML is read besides.
    """
    files = [*sources(*roots), *(package_data(data) if data else [])]
    paths = {Path(file).resolve().relative_to(_ROOT).as_posix(): Path(file) for file in files}
    digest = hashlib.sha256()
    for name in sorted(paths):
        digest.update(f"{name}\n{_meaning(paths[name].resolve())}\n".encode())
    return digest.hexdigest()


@cache
def _meaning(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return json.dumps(yaml.safe_load(text), sort_keys=True)
    tree = ast.parse(text, filename=str(path))
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    # Python 3.12 writes a field more, which is empty in code for 3.11.
    return ast.dump(tree).replace(", type_params=[]", "")


def _is_text(node: ast.AST) -> bool:
    """A string that stands by itself: a docstring, of whatever is above it."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
