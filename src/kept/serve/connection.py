"""A connection that its client has to use, and on which pieces of a stream cost little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kept.serve.gate import Gate, Turned

HAND_ON: Final = "hand_on"


class Connection(H11Protocol):
    """uvicorn's, which waits for the head of a request for ever once a byte of it is there, and
    for the first one from the beginning. Bodies the guard has an eye on.

    `scope["state"]["hand_on"]` of its requests is the connection itself, a `HandsOn`. gate: turns
    requests away that there is no room for, before they are made anything of.
    """

    seconds = 30.0
    gate: Gate | None = None

    _is_late: asyncio.TimerHandle | None = None
    _when_gone: Callable[[], None] | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.app_state = {**self.app_state, HAND_ON: self}

    @property
    def takes_pieces(self) -> bool:
        """Whether `hand_on` will do now."""
        version = self.conn.their_http_version
        return not self.flow.write_paused and version is not None and version >= b"1.1"

    def hand_on(self, body: bytes) -> None:
        """Write a piece, of some bytes, of the body of a streamed answer that has begun and has no
        Content-Length.

        Each message that is sent goes through the states of h11, which takes longer than all that
        has to be done to tell a token.
        """
        if not self.cycle.disconnected:
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """Have something called once the client leaves, at once where it has; None: nothing."""
        self._when_gone = call
        if call is not None:
            self.flow.resume_reading()  # else nobody would hear of it
            if self.cycle.disconnected:
                self.loop.call_soon(self._tell_gone)

    def _tell_gone(self) -> None:
        call, self._when_gone = self._when_gone, None
        if call is not None:
            call()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(cast("asyncio.Transport", Gathering(transport, self.loop)))
        self._is_late = self.loop.call_later(self.seconds, self._end)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.gate is not None and not self.gate.is_open and self._is_between_requests:
            turned = self.gate.turn_away(data)
            if turned is not None:
                self._turn_away(turned)
                return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            if self._is_late is None:
                self._is_late = self.loop.call_later(self.seconds, self._end)
        else:
            self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._forget()
        super().connection_lost(exc)
        self._tell_gone()

    @property
    def _is_between_requests(self) -> bool:
        conn = self.conn
        is_idle = conn.our_state is h11.IDLE and conn.their_state is h11.IDLE
        return is_idle and not conn.trailing_data[0]

    def _turn_away(self, turned: Turned) -> None:
        self._forget()
        self._unset_keepalive_if_required()
        self.transport.write(turned.encoded(self.server_state.default_headers))
        if turned.closes:
            self.transport.close()
        self.on_response_complete()

    def _forget(self) -> None:
        if self._is_late is not None:
            self._is_late.cancel()
            self._is_late = None

    def _end(self) -> None:
        self._is_late = None
        self.transport.close()


class Gathering:
    """A transport that sends at once what is written in one turn of the loop.

    An answer's head, its body and its end are written apart, and each that is sent costs a call to
    the system, and one or two of a client that wakes up for it.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """See asyncio.Transport."""
        if data:
            if not self._written:
                self._loop.call_soon(self._send)
            self._written.append(data)

    def close(self) -> None:
        """See asyncio.Transport."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self._transport.write(b"".join(written))


def connection_of(seconds: float, gate: Gate) -> type[Connection]:
    """The class of connections on which the head of a request may take so many seconds, behind a
    gate."""
    return type("Connection", (Connection,), {"seconds": seconds, "gate": gate})
