"""Joins calls that are made together into one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

QUIET = 0.01
"""Seconds in which calls come together that travel further."""


class CallBatcher(Generic[Item, Result]):
    """Collects calls of one event loop until no more come, and sends them at once.

    Args:
        send: takes the items that were collected, returns one result for each, in order. What it
            raises is raised to every caller.
        quiet: seconds without a new call after which the collected ones are sent. 0: what all tasks
            that can run have called, which takes no time.
    """

    def __init__(
        self, send: Callable[[list[Item]], Awaitable[list[Result]]], quiet: float = 0.0
    ) -> None:
        self._send, self._quiet = send, quiet
        self._items: list[Item] = []
        self._results: asyncio.Task[list[Result]] | None = None

    async def __call__(self, item: Item) -> Result:
        if not self._items:
            self._results = asyncio.create_task(self._send_when_quiet(self._items))
        position, results = len(self._items), self._results
        self._items.append(item)
        # If one caller is cancelled, the others must still get their results.
        return (await asyncio.shield(results))[position]

    async def _send_when_quiet(self, items: list[Item]) -> list[Result]:
        count = 0
        while count < len(items):
            count = len(items)
            await asyncio.sleep(self._quiet)
        self._items = []
        results = await self._send(items)
        if len(results) != len(items):
            raise ValueError(f"{len(items)} calls were sent, {len(results)} results came back")
        return results
