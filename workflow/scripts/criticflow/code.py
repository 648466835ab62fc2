"""What a file of code does, apart from how it is written."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of a syntax tree's nodes that hold statements, or clauses that do."""


def children(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a block, and the clauses that hold further ones.

    Nine tenths of a syntax tree are expressions, which hold no statement.
    """
    for name in BLOCKS:
        yield from getattr(node, name, ())


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
        waiting: list[ast.AST] = [tree]
        while waiting:
            node = waiting.pop()
            for name in BLOCKS:
                if statements := getattr(node, name, None):
                    setattr(node, name, [one for one in statements if not _is_text(one)])
            waiting += children(node)
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
