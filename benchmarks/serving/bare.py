"""Servers of streams without an engine: what it costs to tell of tokens, whoever writes them.

    python benchmarks/serving/bare.py starlette 20 0.1      # prints its port
    python benchmarks/serving/bare.py asyncio 20 0.1

Each POST is answered by so many events of the size of a token's, one every so many seconds:
`starlette` by its StreamingResponse under uvicorn and h11, `asyncio` by a protocol that writes them
as they are and looks at nothing of the request but its length.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHOICE = {"index": 0, "text": " token", "logprobs": None, "finish_reason": None}
BODY = {"id": "cmpl-0123456789ab", "object": "text_completion", "created": 1, "choices": [CHOICE]}
EVENT = b"data: " + json.dumps(BODY | {"model": "kept", "usage": None}).encode() + b"\n\n"


async def by_starlette(listener: socket.socket, events: int, pause: float) -> None:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import StreamingResponse

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(events):
            await asyncio.sleep(pause)
            yield EVENT

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).json()
        await StreamingResponse(pieces(), media_type="text/event-stream")(scope, receive, send)

    config = uvicorn.Config(app, http="h11", log_level="warning", lifespan="off", ws="none")
    await uvicorn.Server(config).serve(sockets=[listener])


class Streaming(asyncio.Protocol):
    """Writes `events` events, one every `pause` seconds, once a request is there, and closes."""

    events, pause = 0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._left, self._missing = transport, self.events, -1

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            head, _, rest = data.partition(b"\r\n\r\n")
            self._missing = int(head.lower().partition(b"content-length:")[2].split()[0])
            data = rest
        self._missing -= len(data)
        if self._missing <= 0:
            self._transport.write(HEAD)
            asyncio.get_running_loop().call_later(self.pause, self._tell)

    def _tell(self) -> None:
        self._transport.write(EVENT)
        self._left -= 1
        if self._left:
            asyncio.get_running_loop().call_later(self.pause, self._tell)
        else:
            self._transport.close()


async def by_asyncio(listener: socket.socket, events: int, pause: float) -> None:
    Streaming.events, Streaming.pause = events, pause
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Streaming, sock=listener)
    await server.serve_forever()


def main() -> None:
    kind, events, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    serve = {"starlette": by_starlette, "asyncio": by_asyncio}[kind]
    asyncio.run(serve(listener, events, pause))


if __name__ == "__main__":
    main()
