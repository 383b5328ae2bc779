"""Who is let in, and what is refused before any route sees it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from starlette.routing import BaseRoute

from kept import LLM
from kept.serve.app import make_app

from .serving import Served, served

KEY = "0123456789abcdef"
OPEN = {"/health", "/ready", "/"}
PAGE = "/page/"
PROMPT = {"prompt": "def f", "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(llm: LLM) -> Iterator[Served]:
    with served(llm, api_key=(f"alice:{KEY}", "bob:fedcba9876543210"), body_timeout=1.0) as found:
        yield found


def routes_of(app: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, whatever stands around the application."""
    while not hasattr(app, "routes"):
        app = app._app
    waiting: list[BaseRoute] = list(app.routes)
    while waiting:
        route = waiting.pop()
        inner = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", None
        )
        waiting.extend(inner or [])
        path = getattr(route, "path", None)
        if path is None or inner:
            continue
        for method in getattr(route, "methods", None) or {"GET"}:
            yield method, path.replace(":path}", "}").replace("{name}", "kept")


def raw(server: Served, request: bytes) -> bytes:
    """What a server says to these bytes until it closes or has answered."""
    host, port = server.url.removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection, suppress(OSError):
        with suppress(OSError):  # it may close before it has read all
            connection.sendall(request)
        while piece := connection.recv(65536):
            found += piece
    return found


def test_every_route_needs_a_key_but_health_and_the_page(locked: Served) -> None:
    listed = set(routes_of(make_app(locked.service)))
    assert {("POST", "/v1/chat/completions"), ("GET", "/v1/models")} <= listed
    listed |= {("GET", "/nowhere"), ("GET", "/openapi.json"), ("POST", "/health/")}
    listed |= {("GET", "/health/../v1/models"), ("GET", "/HEALTH")}
    for method, path in sorted(listed):
        found = locked.http.request(method, path)
        is_open = path in OPEN or path.startswith(PAGE)
        assert (found.status_code == 401) != is_open, (method, path, found)
        if found.status_code == 401 and method != "HEAD":
            assert found.headers["www-authenticate"] == "Bearer"
            assert KEY not in found.text
    # A client would take the first slash for the end of its address.
    asked = b"GET //health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert raw(locked, asked).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer \xff\xfe"},
        {"x-api-key": ""},
        {"x-api-key": f"alice:{KEY}"},
        {"Authorization": f"Bearer {KEY}", "x-api-key": "another-key"},
        {"Cookie": f"key={KEY}"},
        {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost"},
    ],
)
def test_what_is_no_key_is_refused(locked: Served, headers: dict[str, str]) -> None:
    """CVE-2026-59822: a key that is not known was taken for one of somebody else's, or none."""
    given = {name: value.encode("latin-1") for name, value in headers.items()}
    assert locked.http.get("/v1/models", headers=given).status_code == 401
    assert locked.http.get("/v1/models?key=" + KEY, headers=given).status_code == 401


@pytest.mark.parametrize("headers", [{"Authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}])
def test_a_key_is_taken_either_way(locked: Served, headers: dict[str, str]) -> None:
    assert locked.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1/health?", "localhost@evil", "", "a b"])
def test_a_page_that_names_this_machine_otherwise_is_refused(server: Served, host: str) -> None:
    """Rebinding of names; and the path is never put together of what the Host header says."""
    found = server.http.get("/v1/models", headers={"Host": host})
    assert found.status_code in (400, 421)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil"])
def test_pages_of_other_origins_are_refused(server: Served, origin: str) -> None:
    found = server.http.post("/v1/completions", json=PROMPT, headers={"Origin": origin})
    assert found.status_code == 403
    assert "access-control-allow-origin" not in found.headers


def test_a_request_too_deep_too_long_or_too_slow_is_refused(locked: Served) -> None:
    key = {"x-api-key": KEY}
    deep = b'{"prompt":' + b"[" * 100 + b"]" * 100 + b"}"
    assert locked.http.post("/v1/completions", content=deep, headers=key).status_code == 400
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nx-api-key: {KEY}\r\n".encode()
    told = raw(locked, head + b"Content-Length: 999999999\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413")
    host, port = locked.url.removeprefix("http://").split(":")
    # The last two begin a head that never ends.
    begun = (head + b"Content-Length: 10\r\n\r\n{", b"", head)
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            for _ in begun
        ]
        for connection, sent in zip(slow, begun, strict=True):
            connection.sendall(sent)
        told = [connection.recv(65536) for connection in slow]
    assert told[0].startswith(b"HTTP/1.1 408")
    assert told[1:] == [b"", b""]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 30_000 + b"\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["one", "many", "target"],
)
def test_large_headers_are_refused(server: Served, head: bytes) -> None:
    """CVE-2025-48956: a header of any length was taken into memory."""
    told = raw(server, head)
    assert not told or told.split(b" ")[1] in (b"400", b"414", b"431")  # or it just hangs up
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}    ",
        b"Content-Length: -1\r\n\r\n{}",
        b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_what_can_be_read_two_ways_is_answered_once(server: Served, body: bytes) -> None:
    found = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + body)
    assert found.count(b"HTTP/1.1 ") == 1
    assert found.split(b" ")[1].startswith(b"4") or found.split(b" ")[1] == b"501"


def test_a_long_prompt_holds_up_no_short_one(server: Served) -> None:
    let_go = threading.Event()
    held = server.service._long_reader.submit(let_go.wait, 60)
    long = threading.Thread(target=server.complete, args=("word " * 20_000,))
    long.start()
    try:
        assert server.complete("def f").status_code == 200
        assert not held.done()
        assert server.http.get("/health").status_code == 200
    finally:
        let_go.set()
        long.join(60)


def test_errors_stay_short(server: Served) -> None:
    long = "x" * 100_000
    for body in (
        {long: 1, **PROMPT},
        {"model": long, **PROMPT},
        {**PROMPT, "logit_bias": {long: 1}},
        {**PROMPT, "stop": [{long: 1}]},
    ):
        found = server.http.post("/v1/completions", content=json.dumps(body))
        assert 400 <= found.status_code < 500
        assert len(found.content) < 6000
    found = server.chat(chat_template_kwargs={"add_generation_prompt": long})
    assert found.status_code == 400
    assert found.json()["error"]["param"] == "chat_template_kwargs"
    assert len(found.content) < 6000
