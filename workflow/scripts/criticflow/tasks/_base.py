"""What a task is: it loads problems, gives the prompt, and scores a response."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from criticflow.config import Source


@dataclass(frozen=True)
class Problem:
    """One problem, before the prompt is made of it.

    Attributes:
        key: identity of the problem itself: two wordings of one problem have one key. Splits are
            disjoint by it.
        fields: what the prompt template may use (``{numbers}``, ``{question}``, ...).
        ground_truth: what :meth:`Task.score` compares a response with; JSON-serialisable.
        solution: a worked response in the task's answer format, if the source has one.
    """

    key: str
    fields: dict[str, Any]
    ground_truth: Any
    solution: str | None = None


@dataclass(frozen=True)
class Dropped:
    """A row that could not be used, and why (counted by reason in the manifest)."""

    reason: str
    row: Any = None


@dataclass(frozen=True)
class Score:
    """A response's reward in [0, 1] and the parts it was made of."""

    score: float
    correct: bool
    format_ok: bool
    parts: dict[str, float] = field(default_factory=dict)


class Task(Protocol):
    """The interface of a module in ``criticflow.tasks`` (its ``TASK`` object)."""

    kind: str
    prompt: str
    """Template of the user's message, filled with ``Problem.fields``."""

    def problems(self, source: Source, split: str) -> Iterator[Problem | Dropped]:
        """Problems of one split of ``source``; a generator has only ``"all"``."""
        ...

    def score(self, response: str, ground_truth: Any) -> Score:
        """Score a response; never raises for any text, never executes it."""
        ...
