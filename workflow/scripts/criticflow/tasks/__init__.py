"""Tasks, one module per kind. Imports neither torch nor vLLM.

A new kind is one new module here with a ``TASK`` object (see :class:`criticflow.tasks._base.Task`);
modules with a leading underscore are what the kinds share.
"""

from __future__ import annotations

import importlib
import string
from functools import cache

from criticflow.config import Task as TaskConfig
from criticflow.errors import UserError
from criticflow.tasks._base import Dropped, Problem, Score, Task

__all__ = ["Dropped", "Problem", "Score", "Task", "chat", "get_task"]


@cache
def get_task(kind: str) -> Task:
    """The task of one kind.

    Raises:
        UserError: there is no such kind.
    """
    name = f"{__name__}.{kind}"
    try:
        module = importlib.import_module(name) if kind.isidentifier() else None
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        module = None
    task = getattr(module, "TASK", None)
    if task is None:
        raise UserError(f"no task kind {kind!r}: criticflow/tasks/ has no {kind}.py with a TASK")
    return task


def chat(task_config: TaskConfig, problem: Problem) -> list[dict[str, str]]:
    """The messages that ask a model to solve a problem: the system message if any, then the user's.

    Raises:
        UserError: the prompt template names a field that the task does not have, or none at all.
    """
    template = task_config.prompt or own_prompt(task_config)
    _check(template, problem)
    messages = [{"role": "system", "content": task_config.system}] if task_config.system else []
    return [*messages, {"role": "user", "content": template.format(**problem.fields)}]


def own_prompt(task_config: TaskConfig) -> str:
    """The template of the user's message that comes with the task."""
    task = get_task(task_config.kind)
    if task_config.search is not None and task_config.search.format == "tool_calls":
        return task.tools_prompt
    return task.prompt


def _check(template: str, problem: Problem) -> None:
    has = ", ".join(f"{{{name}}}" for name in problem.fields)
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UserError(f"prompt {template!r}: {error} (write {{{{ and }}}} for braces)") from None
    if unknown := sorted(used - set(problem.fields)):
        raise UserError(
            f"prompt {template!r}: unknown field {{{unknown[0]}}}; the task has {has} "
            "(write {{ and }} for braces)"
        )
    if not used:
        raise UserError(f"prompt {template!r}: names no field of the problem; the task has {has}")
