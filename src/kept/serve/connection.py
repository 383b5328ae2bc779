"""A connection that its client has to use, and on which pieces of a stream cost little."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HAND_ON: Final = "hand_on"


class Connection(H11Protocol):
    """uvicorn's, which waits for the head of a request for ever once a byte of it is there, and
    for the first one from the beginning. Bodies the guard has an eye on.

    `scope["state"]["hand_on"]` of its requests is `hand_on`.
    """

    seconds = 30.0

    _is_late: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.app_state = {**self.app_state, HAND_ON: self.hand_on}

    def hand_on(self, body: bytes) -> bool:
        """Write a piece of the body of a streamed answer that has begun and has no Content-Length;
        False: it has to be sent as any other.

        Each message that is sent goes through the states of h11, which takes longer than all that
        has to be done to tell a token.
        """
        if self.cycle.disconnected:
            return True
        version = self.conn.their_http_version
        if self.flow.write_paused or version is None or version < b"1.1":
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._is_late = self.loop.call_later(self.seconds, self._end)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
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

    def _forget(self) -> None:
        if self._is_late is not None:
            self._is_late.cancel()
            self._is_late = None

    def _end(self) -> None:
        self._is_late = None
        self.transport.close()


def connection_of(seconds: float) -> type[Connection]:
    """The class of connections on which the head of a request may take so many seconds."""
    return type("Connection", (Connection,), {"seconds": seconds})
