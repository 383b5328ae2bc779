"""Answers while they are written: server-sent events, or lines of JSON."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kept.serve.connection import HAND_ON

T = TypeVar("T")
# Made once: json.dumps would make one for each piece.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)

KEEP_ALIVE: Final = 5.0  # seconds of silence after which a comment says that somebody is there
COMMENT: Final = b": kept\n\n"


class GoneError(Exception):
    """The client has left; nobody hears the answer."""


def to_json(value: object) -> bytes:
    """Compact JSON. What is no number is null, as other readers know no NaN; half a surrogate pair,
    which a client's own fields may hold, stays the escape it came as."""
    try:
        return _ENCODER.encode(value).encode()
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":")).encode()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def sse(data: object, event: str | None = None) -> bytes:
    """One event of a stream. data: written as JSON, or as it is where it is a text."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    text = data.encode() if isinstance(data, str) else to_json(data)
    return name + b"data: " + text + b"\n\n"


class HandsOn(Protocol):
    """A connection that takes pieces of a stream past ASGI, see `Connection`."""

    @property
    def takes_pieces(self) -> bool: ...

    def hand_on(self, body: bytes) -> None: ...

    def when_gone(self, call: Callable[[], None] | None) -> None: ...


# Sends the piece that is made, in place of it being yielded; False: it was not made, and is to be.
AtOnce = Callable[[Callable[[], bytes]], bool]


class EventStream(Response):
    """An ASGI answer of pieces that are sent as they come.

    pieces: makes them. While the next one is awaited, it may have one sent by what it is given, an
    `AtOnce`.

    Its headers go at once. While `pieces` is silent, what `comment` returns is sent every five
    seconds by the loop's own clock, whatever the engine does; None: nothing is. A client that
    leaves ends the iteration at once, wherever it stands.
    """

    def __init__(
        self,
        pieces: Callable[[AtOnce], AsyncGenerator[bytes, None]],
        *,
        media_type: str = "text/event-stream",
        comment: Callable[[], bytes] | None = lambda: COMMENT,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._pieces, self._comment = pieces, comment
        self._straight: HandsOn | None = None
        self._is_sending, self._sent_at = False, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
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
        self._straight = scope.get("state", {}).get(HAND_ON)
        sending, has_left = asyncio.current_task(), False
        assert sending is not None

        def leave() -> None:
            nonlocal has_left
            has_left = True
            sending.cancel()

        try:
            async with _told_of_leaving(leave, self._straight, receive):
                await self._send(send)
        except OSError:
            pass  # the client is gone, and nobody else is to be told
        except asyncio.CancelledError:
            if not has_left:
                raise
        finally:
            if has_left:
                sending.uncancel()

    async def _send(self, send: Send) -> None:
        self._sent_at = monotonic()
        if self._comment is not None:
            self._rest(send, KEEP_ALIVE)
        try:
            async with aclosing(self._pieces(self._at_once)) as pieces:
                async for piece in pieces:
                    if not piece:
                        continue
                    if (straight := self._way_past()) is not None:
                        self._hand_on(straight, piece)
                    else:
                        await self._send_on(piece, send)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._beating is not None:
                self._beating.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await self._beating
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _at_once(self, make: Callable[[], bytes]) -> bool:
        if (straight := self._way_past()) is None:
            return False
        if piece := make():
            self._hand_on(straight, piece)
        return True

    def _way_past(self) -> HandsOn | None:
        """The connection, where it takes a piece past ASGI now."""
        found = self._straight
        return None if found is None or self._is_sending or not found.takes_pieces else found

    def _hand_on(self, straight: HandsOn, piece: bytes) -> None:
        straight.hand_on(piece)
        self._sent_at = monotonic()

    async def _send_on(self, body: bytes, send: Send) -> None:
        self._is_sending = True
        await send({"type": "http.response.body", "body": body, "more_body": True})
        self._is_sending = False
        self._sent_at = monotonic()

    def _rest(self, send: Send, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._beat, send)

    def _beat(self, send: Send) -> None:
        """Have a comment sent where nothing was for long. No task waits for that, as most streams
        are never silent."""
        wait = self._sent_at + KEEP_ALIVE - monotonic()
        if wait <= 0 and not self._is_sending:
            self._beating = asyncio.ensure_future(self._send_comment(send))
            self._beating.add_done_callback(_heard)
        self._rest(send, wait if wait > 0 else KEEP_ALIVE)

    async def _send_comment(self, send: Send) -> None:
        if self._comment is not None and not self._is_sending:
            await self._send_on(self._comment(), send)  # which may count what is sent


def _heard(task: asyncio.Task[None]) -> None:
    """What a comment failed by is no news: the client has left."""
    if not task.cancelled():
        task.exception()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` comes to, which is cancelled if the client leaves; then GoneError is raised."""
    working, has_left = asyncio.current_task(), False
    assert working is not None

    def leave() -> None:
        nonlocal has_left
        has_left = True
        working.cancel()

    straight = request.scope.get("state", {}).get(HAND_ON)
    try:
        async with _told_of_leaving(leave, straight, request.receive):
            return await work
    except asyncio.CancelledError:
        if not has_left:
            raise
        raise GoneError from None
    finally:
        if has_left:
            working.uncancel()


@asynccontextmanager
async def _told_of_leaving(
    leave: Callable[[], None], straight: HandsOn | None, receive: Receive
) -> AsyncGenerator[None, None]:
    """Has `leave` called where the client leaves before the end of the block."""
    if straight is not None:  # a task of its own costs as much as some pieces
        straight.when_gone(leave)
        try:
            yield
        finally:
            straight.when_gone(None)
        return

    def leave_with(_: object) -> None:
        leave()

    leaving = asyncio.ensure_future(_left(receive))
    leaving.add_done_callback(leave_with)
    try:
        yield
    finally:
        leaving.remove_done_callback(leave_with)
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving


async def _left(receive: Receive) -> None:
    while True:
        message: Mapping[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            return
