"""A client that takes little of the processors that it shares with a server.

One thread, sockets as they are, requests made beforehand, and what comes is read after the clock
has stopped.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from client import Told

Then = Callable[[Told], None]


def made(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    """A request, ready to be sent."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Client:
    """Asks for answers of one server, or of several. `open`: requests that have not ended."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self.open = 0

    def ask(
        self, data: bytes, then: Then | None = None, address: tuple[str, int] | None = None
    ) -> Told:
        """Send a request; what it came to is whole once `then` is called."""
        told, began = Told(), time.perf_counter()
        connection = socket.create_connection(address or self._address)
        connection.sendall(data)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, (told, began, then))
        self.open += 1
        return told

    def hear(self, until: float) -> None:
        """Hear what comes until a time of `time.perf_counter`, or until nothing is open."""
        while self.open and (left := until - time.perf_counter()) > 0:
            for key, _ in self._selector.select(min(left, 60.0)):
                self._read(key.fileobj, *key.data)  # type: ignore[arg-type]

    def send(
        self, due: Iterable[tuple[float, bytes]], address: tuple[str, int] | None = None
    ) -> list[Told]:
        """Send requests, each at its time of `time.perf_counter`, and hear what comes meanwhile."""
        told = []
        for at, data in due:
            self.hear(at)
            if (left := at - time.perf_counter()) > 0:
                time.sleep(left)
            told.append(self.ask(data, None, address))
        return told

    def _read(self, connection: socket.socket, told: Told, began: float, then: Then | None) -> None:
        try:
            piece = connection.recv(1 << 16)
        except OSError as error:
            told.error, piece = repr(error), b""
        told.seconds = time.perf_counter() - began
        if piece:
            told.heard.append((told.seconds, piece))
            return
        self._selector.unregister(connection)
        connection.close()
        self.open -= 1
        if then is not None:
            then(told)


def read(told: Told) -> Told:
    """Take in what was heard, head and all."""
    head = b"".join(piece for _, piece in told.heard)[:64]
    told.status = int(head.split()[1]) if head else 0
    if told.status == 200:
        told.read()
    return told
