"""Calls that come close together travel as one, each with its own answer."""

from __future__ import annotations

import asyncio

import pytest

from criticflow.verl_plugin.call_batching import CallBatcher


def test_calls_made_together_are_sent_once_and_answered_in_order():
    sent = []

    async def send(items):
        sent.append(list(items))
        return [item * 10 for item in items]

    async def main():
        batched = CallBatcher(send)
        return await asyncio.gather(*(batched(item) for item in range(5)))

    assert asyncio.run(main()) == [0, 10, 20, 30, 40]
    assert sent == [[0, 1, 2, 3, 4]]


def test_a_call_while_others_are_being_sent_is_sent_next():
    sent = []

    async def send(items):
        sent.append(list(items))
        await asyncio.sleep(0.1)
        return items

    async def main():
        batched = CallBatcher(send)
        first = asyncio.create_task(batched("first"))
        await asyncio.sleep(0.06)
        assert await batched("second") == "second"
        assert await first == "first"

    asyncio.run(main())
    assert sent == [["first"], ["second"]]


def test_an_error_reaches_every_caller():
    async def send(items):
        raise RuntimeError("the engine is gone")

    async def main():
        batched = CallBatcher(send)
        return await asyncio.gather(batched(1), batched(2), return_exceptions=True)

    assert [str(error) for error in asyncio.run(main())] == ["the engine is gone"] * 2


def test_an_answer_too_few_is_an_error():
    async def send(items):
        return items[:-1]

    async def main():
        batched = CallBatcher(send)
        async with asyncio.timeout(5):
            await asyncio.gather(batched(1), batched(2))

    with pytest.raises(ValueError, match="2 calls were sent, 1 results"):
        asyncio.run(main())
