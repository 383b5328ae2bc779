"""Answers while they are written: server-sent events, or lines of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kept.serve.flow import ticking

T = TypeVar("T")

KEEP_ALIVE: Final = 5.0  # seconds of silence after which a comment says that somebody is there
COMMENT: Final = b": kept\n\n"


class GoneError(Exception):
    """The client has left; nobody hears the answer."""


def to_json(value: object) -> bytes:
    """Compact JSON. What is no number is null, as other readers know no NaN."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def sse(data: object, event: str | None = None) -> bytes:
    """One event of a stream. data: written as JSON, or as it is where it is a text."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    text = data.encode() if isinstance(data, str) else to_json(data)
    return name + b"data: " + text + b"\n\n"


class EventStream(Response):
    """An ASGI answer of pieces that are sent as they come.

    Its headers go at once. While `pieces` is silent, `comment` is sent every five seconds by the
    loop's own clock, whatever the engine does; None: nothing is. A client that leaves ends the
    iteration at once, wherever it stands.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        media_type: str = "text/event-stream",
        comment: bytes | None = COMMENT,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._pieces, self._comment = pieces, comment
        given = {
            "Content-Type": f"{media_type}; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # proxies hand on what they get
            **(headers or {}),
        }
        self.status_code, self.background = 200, None
        self.raw_headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in given.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        begin = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(begin)
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                if not task.done():
                    task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sending
            with suppress(asyncio.CancelledError):
                await leaving

    async def _send(self, send: Send) -> None:
        async with aclosing(ticking(self._pieces, KEEP_ALIVE)) as pieces:
            async for piece in pieces:
                body = self._comment if piece is None else piece
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` comes to, which is cancelled if the client leaves; then GoneError is raised."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GoneError
        return working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _left(receive: Receive) -> None:
    while True:
        message: Mapping[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            return
