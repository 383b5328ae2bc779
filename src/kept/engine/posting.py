"""News of an engine's texts for the coroutines of one loop: a wake-up a step, not one a token."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

SHARE: Final = 0.025  # of the time, that telling of tokens may take the loop's thread
LONGEST: Final = 0.1  # seconds that a token is kept back, however long telling takes


class News(Protocol):
    """What hears that there is something new, as an `asyncio.Event` does."""

    def set(self) -> None:
        """Be told, on the loop's thread."""


class Post:
    """Tells a loop's `News` from threads that step.

    Each wake-up makes the stepping thread let go of the interpreter, and what the loop does then
    is done on the processors that the kernels compute on. So there is one for all that a step
    brings. Where hearing it takes the loop's thread more than `SHARE` of its time, as it does for
    many texts of a small model, the next tokens wait and are heard together, never more than
    `LONGEST` later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._urgent, self._others = deque[News](), deque[News]()
        # Whether the loop is going to deliver. It says no more before it looks at what there is,
        # so what came while it said so is delivered.
        self._is_called = self._is_called_for_others = False
        self._not_before = 0.0

    def put(self, news: News, *, is_urgent: bool) -> None:
        """Have the loop set it, now or with others. Any thread may.

        Raises RuntimeError where the loop has been closed.
        """
        (self._urgent if is_urgent else self._others).append(news)
        if self._is_called if is_urgent else self._is_called_for_others:
            return
        try:
            if is_urgent:
                self._is_called = True
                self._loop.call_soon_threadsafe(self._deliver)
            else:
                self._is_called_for_others = True
                self._loop.call_soon_threadsafe(self._deliver_others)
        except BaseException:  # Ctrl-C too: the next one is to call
            self._is_called = self._is_called_for_others = False
            raise

    def _deliver(self) -> None:
        self._is_called = False
        _set(self._urgent)

    def _deliver_others(self) -> None:
        if self._loop.time() < self._not_before:
            self._loop.call_at(self._not_before, self._deliver_others)
            return
        self._is_called_for_others = False
        began = time.thread_time()
        _set(self._others)
        # Behind those who have been woken, which go on in the loop's next round.
        self._loop.call_soon(self._loop.call_soon, self._pause, began)

    def _pause(self, began: float) -> None:
        """Let the loop's thread rest from telling, by how long that took."""
        took = time.thread_time() - began
        self._not_before = self._loop.time() + min(took / SHARE, LONGEST)


def _set(waiting: deque[News]) -> None:
    while waiting:
        waiting.popleft().set()
