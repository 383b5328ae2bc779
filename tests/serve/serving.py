"""A server in a thread of this process, and a client of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn

from kept import LLM, CacheOptions
from kept.serve.running import address_of, bind, is_local, server_of
from kept.serve.service import Service
from kept.serve.settings import Settings

TIMEOUT = 60.0


class Served:
    """service: behind it. http: a client that comes with no key. url: where it is."""

    def __init__(self, service: Service, server: uvicorn.Server, url: str) -> None:
        self.service, self.server, self.url = service, server, url
        self.thread: threading.Thread | None = None
        self.http = httpx2.Client(base_url=url, timeout=TIMEOUT)

    def chat(self, **body: Any) -> httpx2.Response:
        body.setdefault("messages", [{"role": "user", "content": "add two numbers"}])
        body.setdefault("max_tokens", 8)
        return self.http.post("/v1/chat/completions", json=body)

    def complete(self, prompt: Any = "def add(a, b):", **body: Any) -> httpx2.Response:
        body.setdefault("max_tokens", 8)
        return self.http.post("/v1/completions", json={"prompt": prompt, **body})

    @property
    def has_ended(self) -> bool:
        """Whether the server has ended by itself."""
        return self.thread is not None and not self.thread.is_alive()

    def has_idle_engines(self) -> bool:
        """Whether nothing runs, waits or is held; waits a while for that."""
        until = time.monotonic() + TIMEOUT
        while time.monotonic() < until:
            if self.service.is_idle and not any(e.has_work for e in self.service.engines):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def served(
    llm: LLM, cache_options: CacheOptions | None = None, **settings: Any
) -> Iterator[Served]:
    """A server of these settings, at a free port of loopback."""
    settings.setdefault("access_log", False)
    chosen = Settings(port=0, **settings)
    service = Service(llm, chosen, cache_options)
    listener = bind(chosen)
    server = server_of(service, is_local=is_local(listener))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    found = Served(service, server, address_of(listener))
    found.thread = thread
    try:
        yield found
    finally:
        found.http.close()
        server.should_exit = True
        thread.join(TIMEOUT)
        assert not thread.is_alive()
