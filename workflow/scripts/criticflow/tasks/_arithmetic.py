"""Arithmetic on given integers: parsed to a syntax tree, evaluated exactly, never executed."""

from __future__ import annotations

import ast
import re
from fractions import Fraction

MAX_LENGTH = 200
MAX_DEPTH = 32
_ALPHABET = re.compile(r"[0-9+\-*/() \t\r\n]+")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div)


def parse(text: str) -> ast.expr | None:
    """The syntax tree of ``text``, or None unless it is plain arithmetic.

    Plain: ASCII digits, ``+ - * /``, a minus sign before a term, and parentheses, in at most
    ``MAX_LENGTH`` characters and ``MAX_DEPTH`` levels. Powers, floor division, calls, decimals,
    names and digits of other scripts are not.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH or not _ALPHABET.fullmatch(text):
        return None
    try:
        tree = ast.parse(" ".join(text.split()), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):  # the last two: the parser's own depth limit
        return None
    return tree if _is_plain(tree, MAX_DEPTH) else None


def numbers(tree: ast.expr) -> list[int]:
    """The integers that a parsed expression uses, in ascending order."""
    found: list[int] = []
    _collect(tree, found)
    return sorted(found)


def value(tree: ast.expr) -> int | Fraction | None:
    """The exact value of a parsed expression; None where it divides by zero."""
    try:
        return _value(tree)
    except ZeroDivisionError:
        return None


def _is_plain(node: ast.expr, depth: int) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if depth == 0:
        return False
    if isinstance(node, ast.BinOp):
        return (
            isinstance(node.op, _OPERATORS)
            and _is_plain(node.left, depth - 1)
            and _is_plain(node.right, depth - 1)
        )
    return (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and _is_plain(node.operand, depth - 1)
    )


def _collect(node: ast.expr, found: list[int]) -> None:
    if isinstance(node, ast.Constant):
        found.append(node.value)
    elif isinstance(node, ast.BinOp):
        _collect(node.left, found)
        _collect(node.right, found)
    else:
        _collect(node.operand, found)


def _value(node: ast.expr) -> int | Fraction:
    """Integers stay integers until something is divided: much faster, and as exact."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    left, right = _value(node.left), _value(node.right)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    if isinstance(node.op, ast.Mult):
        return left * right
    return Fraction(left, right)
