"""A rollout that yields no token is noticed; one that yields some, or none is asked of, is left."""

from __future__ import annotations

import asyncio
import os

import pytest

from criticflow.errors import UserError
from criticflow.training.rollout_watch import RolloutWatch
from criticflow.verl_plugin import heartbeat

LIMIT = 60


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_engine_without_tokens_is_named(tmp_path, clock):
    watch = RolloutWatch(tmp_path, LIMIT, clock)
    (tmp_path / "engine-0").touch()
    watch()
    clock.now = LIMIT - 1
    watch()
    clock.now = LIMIT + 1
    with pytest.raises(UserError, match=r"engine-0.* no token for 1 minutes .*rollout_stall_min"):
        watch()


def test_new_tokens_and_the_end_of_a_rollout_begin_the_time_anew(tmp_path, clock):
    watch, file = RolloutWatch(tmp_path, LIMIT, clock), tmp_path / "engine-0"
    file.touch()
    watch()
    clock.now = 50
    os.utime(file, ns=(1, 1))
    watch()
    clock.now = 100
    watch()
    file.unlink()
    watch()
    clock.now = 1000
    file.touch()
    watch()


def test_a_directory_that_no_rollout_has_made_yet_is_nothing(tmp_path, clock):
    RolloutWatch(tmp_path / "none", LIMIT, clock)()


def test_the_servers_file_is_renewed_by_tokens_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(heartbeat.DIRECTORY, str(tmp_path / "beats"))
    monkeypatch.setattr(heartbeat, "PAUSE", 0.01)
    tokens, file = [], tmp_path / "beats" / "engine-3"

    async def rollout() -> tuple[int, int]:
        async with heartbeat.heartbeat("engine-3", lambda: len(tokens)):
            os.utime(file, ns=(1, 1))
            await asyncio.sleep(0.1)
            stuck = file.stat().st_mtime_ns
            tokens.append("one")
            await asyncio.sleep(0.1)
            return stuck, file.stat().st_mtime_ns

    stuck, renewed = asyncio.run(rollout())
    assert stuck == 1 < renewed
    assert not file.exists()


def test_a_rollout_that_fails_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv(heartbeat.DIRECTORY, str(tmp_path))

    async def rollout() -> None:
        async with heartbeat.heartbeat("engine-0", lambda: 0):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(rollout())
    assert not list(tmp_path.iterdir())
