"""What the tests of all kinds of tasks need to know of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskExample:
    """``EXAMPLE`` in ``test_tasks_KIND.py``; ``test_tasks_common.py`` finds it there.

    Attributes:
        fields: what the kind's own prompt names, with values.
        mark: what that prompt says about where the answer stands.
        ground_truth: of a problem of this kind.
        right: a response that is right, without any reasoning.
    """

    fields: dict[str, Any]
    mark: str
    ground_truth: Any
    right: str
