"""Asynchronous iterators, put together and held to a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def ticking(source: AsyncIterator[T], seconds: float) -> AsyncGenerator[T | None, None]:
    """What a source yields, and None whenever it has been silent for so many seconds."""
    pending: asyncio.Future[T] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield None
                continue
            finished, pending = pending, None
            try:
                item = finished.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        await _end(source, pending)


async def merged(sources: Sequence[AsyncIterator[T]]) -> AsyncGenerator[T, None]:
    """What several sources yield, as it comes; each one's own in order.

    What one of them raises ends all.
    """
    pending = {asyncio.ensure_future(anext(source)): source for source in sources}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                source = pending.pop(finished)
                try:
                    item = finished.result()
                except StopAsyncIteration:
                    continue
                pending[asyncio.ensure_future(anext(source))] = source
                yield item
    finally:
        for task in pending:
            task.cancel()
        for source in sources:
            waiting = next((t for t, s in pending.items() if s is source), None)
            await _end(source, waiting)


async def _end(source: Any, pending: asyncio.Future[Any] | None) -> None:
    """Close a source, once it has heard that nobody waits for its next item."""
    if pending is not None:
        pending.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await pending
    async with aclosing(source):
        pass
