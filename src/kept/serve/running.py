"""A server's life: it binds, says where, answers, drains and ends."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import socket
import time
from types import FrameType
from typing import Final

import uvicorn

from kept.errors import OptionError
from kept.serve.app import make_app, make_gate
from kept.serve.connection import connection_of
from kept.serve.service import Service
from kept.serve.settings import Settings

log = logging.getLogger("kept.serve")

BACKLOG: Final = 2048
YOUNG: Final = 10_000  # objects, after which the collector looks at those that are new
IDLE: Final = 75  # seconds after which a connection without requests is closed
LAST_WORDS: Final = 5  # seconds that answers cut short have to say so


def bind(settings: Settings) -> socket.socket:
    """The socket of a server; who connects before it answers waits.

    Raises OptionError where it cannot be had, and for an address beyond this machine without an
    API key.
    """
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--host {host} is no address of this machine: {error}") from error
    family, kind, protocol, _, address = found[0]
    if not _is_loopback(str(address[0])) and not (settings.api_key or settings.api_key_file):
        raise OptionError(
            f"--host {host} lets other machines in, and there is no key they would need; give "
            "--api-key-file FILE (`openssl rand -hex 32` makes a key), or stay on 127.0.0.1"
        )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # else another could bind it too until somebody listens
    except OSError as error:
        listener.close()
        raise OptionError(
            f"port {port} of {host} cannot be had: {error.strerror}; give another --port, 0 for "
            "any free one"
        ) from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return _is_loopback(str(listener.getsockname()[0]))


def address_of(listener: socket.socket) -> str:
    """Where a browser would go."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def serve(service: Service, listener: socket.socket) -> None:
    """Answer until a signal ends it: SIGTERM or Ctrl-C have it take no more and end what there
    is, a second one cuts that short."""
    server = server_of(service, is_local=is_local(listener))
    _spare_the_collector()
    asyncio.run(server.serve(sockets=[listener]))


def _spare_the_collector() -> None:
    """Have no collection of garbage go through what is there for good: all modules, torch's among
    them, take a tenth of a second and more, in which nobody computes or is answered."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


def server_of(service: Service, *, is_local: bool) -> uvicorn.Server:
    """A server of a service's application, which drains it before it ends. is_local: only this
    machine can reach it."""
    gate = make_gate(service, is_local=is_local)
    config = uvicorn.Config(
        make_app(service, is_local=is_local),
        # Not whichever is installed: httptools' has no limit on headers.
        http=connection_of(service.settings.body_timeout, gate),
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=LAST_WORDS,
        h11_max_incomplete_event_size=64 << 10,
    )
    return _Server(config, service)


class _Server(uvicorn.Server):
    """Drains before it closes: it goes on listening, so that balancers hear it is not ready."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal drains, a second one ends."""
        if self._ends_at is None:
            self._service.drain()
            self._ends_at = time.monotonic() + self._service.settings.drain_time
        else:
            self._ends_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now; asked ten times a second."""
        should_exit = await super().on_tick(counter)
        if self._ends_at is None:
            return should_exit
        return self._service.is_idle or time.monotonic() >= self._ends_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close, while answers that have not ended are cut short and say so."""
        self._service.drain()
        ending = asyncio.ensure_future(self._service.runners.aclose())
        await super().shutdown(sockets)
        await ending


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
