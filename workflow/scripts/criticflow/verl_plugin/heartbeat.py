"""A file that is renewed while a rollout engine generates tokens (``training.rollout_watch``)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

DIRECTORY = "CRITICFLOW_HEARTBEATS"
"""Environment variable: where the files are; without it there are none."""
PAUSE = 1.0
"""Seconds between two looks at the tokens."""


@asynccontextmanager
async def heartbeat(name: str, progress: Callable[[], Hashable]) -> AsyncIterator[None]:
    """For the length of a block there is a file ``name``, renewed whenever ``progress`` changes.

    Args:
        name: of the engine.
        progress: a value that changes whenever there are new tokens.
    """
    directory = os.environ.get(DIRECTORY)
    if not directory:
        yield
        return
    Path(directory).mkdir(parents=True, exist_ok=True)
    file = Path(directory) / name
    file.touch()
    renewing = asyncio.create_task(_renew(file, progress))
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        file.unlink(missing_ok=True)


async def _renew(file: Path, progress: Callable[[], Hashable]) -> None:
    before = progress()
    while True:
        await asyncio.sleep(PAUSE)
        if (now := progress()) != before:
            before = now
            file.touch()
