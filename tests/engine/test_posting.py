"""A loop hears of a step once, however many tokens it brings, and of none too late."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kept.engine import posting
from kept.engine.posting import Post


class Counting(asyncio.SelectorEventLoop):
    """Counts how often another thread wakes it."""

    calls = 0

    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:
        self.calls += 1
        return super().call_soon_threadsafe(*arguments, **options)


def run(coroutine: Any) -> int:
    """How often the loop was woken while it ran a coroutine."""
    loop = Counting()
    try:
        loop.run_until_complete(asyncio.wait_for(coroutine, 60))
        return loop.calls
    finally:
        loop.close()


async def posted(post: Post, urgent: list[bool]) -> list[asyncio.Event]:
    """What another thread has put, by whether each is urgent, while the loop could not hear it."""
    found = [asyncio.Event() for _ in urgent]

    def put() -> None:
        for news, is_urgent in zip(found, urgent, strict=True):
            post.put(news, is_urgent=is_urgent)

    thread = threading.Thread(target=put)
    thread.start()
    thread.join()
    return found


def test_a_step_wakes_the_loop_once() -> None:
    async def hear() -> None:
        post = Post(asyncio.get_running_loop())
        for is_urgent in (False, True):
            for news in await posted(post, [is_urgent] * 50):
                await news.wait()

    assert run(hear()) == 2


def test_tokens_wait_for_each_other_where_telling_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posting, "SHARE", 1e-9)  # any telling is long
    monkeypatch.setattr(posting, "LONGEST", 3600.0)

    async def hear() -> None:
        post = Post(asyncio.get_running_loop())
        [first] = await posted(post, [False])
        await first.wait()
        for _ in range(3):  # until it has been measured
            await asyncio.sleep(0)
        later, at_once = await posted(post, [False, True])
        await at_once.wait()
        assert not later.is_set()
        post._not_before = 0.0
        post._deliver_others()
        assert later.is_set()

    run(hear())


def test_what_is_kept_back_is_heard_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "SHARE", 1e-9)

    async def hear() -> None:
        post = Post(asyncio.get_running_loop())
        for _ in range(4):
            for news in await posted(post, [False] * 2):
                await news.wait()
            await asyncio.sleep(0.001)

    assert run(hear()) == 4


def test_a_closed_loop_says_so_each_time() -> None:
    loop = asyncio.new_event_loop()
    post = Post(loop)
    loop.close()
    for is_urgent in (True, True, False, False):
        with pytest.raises(RuntimeError, match="closed"):
            post.put(asyncio.Event(), is_urgent=is_urgent)
