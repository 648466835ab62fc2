"""What a file of code does, apart from how it is written."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import yaml


def code_digest(path: Path) -> str:
    """SHA-256 of a Python file's syntax tree without docstrings, or of a YAML file's values.

    Comments and layout have no part in it. Of any other file the whole text counts.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        meaning = json.dumps(yaml.safe_load(text), sort_keys=True)
    elif path.suffix != ".py":
        meaning = text
    else:
        tree = ast.parse(text, filename=str(path))
        for node in ast.walk(tree):
            for name in ("body", "orelse", "finalbody"):
                if isinstance(statements := getattr(node, name, None), list):
                    setattr(node, name, [one for one in statements if not _is_text(one)])
        # Python 3.12 added the field, empty but in new syntax.
        meaning = ast.dump(tree).replace(", type_params=[]", "")
    return hashlib.sha256(meaning.encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    """A string that stands by itself: a docstring, of whatever is above it."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
