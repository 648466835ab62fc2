"""Countdown problems: a generator, and the solver that checks it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from criticflow.config import Generate
from criticflow.errors import UserError

PATIENCE = 100_000
"""After so many draws in a row without a new problem the generator gives up."""


class Term(NamedTuple):
    """An expression: its text, how tightly its operator binds (atoms: 3), its exact value."""

    text: str
    binding: int
    value: Fraction


def generate(settings: Generate) -> Iterator[tuple[list[int], int, str]]:
    """Distinct problems as (numbers, target, solution), from ``settings.seed`` alone.

    Each is made from its solution, whose intermediate results are positive integers, and checked
    with :func:`solve`. Two problems are the same if their target and the multiset of their numbers
    are.

    Raises:
        UserError: there are fewer such problems than asked for.
    """
    if settings.low > settings.high:
        raise UserError(f"source.generate: low {settings.low} is above high {settings.high}")
    rng = random.Random(settings.seed)
    seen: set[tuple[tuple[int, ...], int]] = set()
    misses = 0
    while len(seen) < settings.problems:
        size = rng.choice(settings.numbers)
        drawn = [rng.randint(settings.low, settings.high) for _ in range(size)]
        solution = _draw(drawn, settings.operators, rng)
        key = (tuple(sorted(drawn)), int(solution.value) if solution else 0)
        fits = (
            solution is not None
            and solution.value <= settings.max_target
            and len(solution.text) <= settings.max_answer_length
        )
        if not fits or key in seen or solve(*key) is None:
            misses += 1
            if misses == PATIENCE:
                raise UserError(
                    f"source.generate: asked for {settings.problems} problems, but there are only "
                    f"about {len(seen)} with {settings.numbers} numbers from {settings.low} to "
                    f"{settings.high}, targets up to {settings.max_target} and solutions of up to "
                    f"{settings.max_answer_length} characters: lower problems or widen the ranges"
                )
            continue
        seen.add(key)
        misses = 0
        yield drawn, int(solution.value), solution.text


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An expression that uses each number exactly once and equals the target, or None.

    Complete: all values of every subset of the numbers are known, and the last operation is looked
    up backwards from the target.
    """
    numbers, goal = tuple(sorted(numbers)), Fraction(target)
    if len(numbers) == 1:
        return str(numbers[0]) if numbers[0] == goal else None
    for some, others in _partitions(numbers):
        known = _reachable(others)
        for left in _reachable(some).values():
            for operator, needed, swapped in _inverses(left.value, goal):
                if (right := known.get(needed)) is not None:
                    pair = (right, left) if swapped else (left, right)
                    if (term := _combine(operator, *pair)) is not None:
                        return term.text
    return None


def _draw(numbers: list[int], operators: str, rng: random.Random) -> Term | None:
    """A random expression on the numbers; None if a step is not a positive integer."""
    terms = [_atom(number) for number in numbers]
    while len(terms) > 1:
        left = terms.pop(rng.randrange(len(terms)))
        right = terms.pop(rng.randrange(len(terms)))
        term = _combine(rng.choice(operators), left, right)
        if term is None or term.value.denominator != 1 or term.value <= 0:
            return None
        terms.append(term)
    return terms[0]


def _atom(number: int) -> Term:
    return Term(str(number), 3, Fraction(number))


def _combine(operator: str, left: Term, right: Term) -> Term | None:
    """``left operator right`` with the parentheses it needs; None for a division by zero."""
    binding = 1 if operator in "+-" else 2
    first = left.text if left.binding >= binding else f"({left.text})"
    strict = operator in "-/"  # a - (b + c) and a / (b * c) need theirs, a + (b - c) does not
    tight = right.binding > binding or (right.binding == binding and not strict)
    second = right.text if tight else f"({right.text})"
    if operator == "+":
        result = left.value + right.value
    elif operator == "-":
        result = left.value - right.value
    elif operator == "*":
        result = left.value * right.value
    elif right.value:
        result = left.value / right.value
    else:
        return None
    return Term(f"{first}{operator}{second}", binding, result)


@lru_cache(maxsize=256)
def _reachable(numbers: tuple[int, ...]) -> dict[Fraction, Term]:
    """Every value of the (sorted) numbers, each used once, with one expression for it."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): _atom(numbers[0])}
    found: dict[Fraction, Term] = {}
    for some, others in _partitions(numbers):
        for left in _reachable(some).values():
            for right in _reachable(others).values():
                for operator, a, b in (
                    ("+", left, right),
                    ("*", left, right),
                    ("-", left, right),
                    ("-", right, left),
                    ("/", left, right),
                    ("/", right, left),
                ):
                    term = _combine(operator, a, b)
                    if term is not None:
                        found.setdefault(term.value, term)
    return found


def _partitions(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to split the numbers in two, the smaller or equal part first, without repeats."""
    seen = set()
    for mask in range(1, 2 ** len(numbers) - 1):
        some = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        others = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
        if (len(some), some) <= (len(others), others) and (some, others) not in seen:
            seen.add((some, others))
            yield some, others


def _inverses(value: Fraction, goal: Fraction) -> Iterator[tuple[str, Fraction, bool]]:
    """(operator, other operand, whether it stands on the left) such that the result is the goal."""
    yield "+", goal - value, False
    yield "-", value - goal, False
    yield "-", goal + value, True
    yield "/", goal * value, True
    if value:
        yield "*", goal / value, False
    if goal:
        yield "/", value / goal, False
