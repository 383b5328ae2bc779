"""Where there is no room, requests are turned away before they are parsed, and told the same."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kept import LLM
from kept.serve.access import AccessLog
from kept.serve.gate import Gate

from .serving import TIMEOUT, Served, served
from .test_straight import PATHS

KEY = "a-key-of-somebody"


@pytest.fixture(scope="module")
def server(llm: LLM) -> Iterator[Served]:
    with served(llm, api_key=[KEY], access_log=True) as found:
        found.service.drain()
        yield found


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of requests that have come to the application."""
    found, call = list[str](), AccessLog.__call__

    async def noting(self: AccessLog, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if scope["type"] == "http":
            found.append(scope["path"])
        await call(self, scope, receive, send)

    monkeypatch.setattr(AccessLog, "__call__", noting)
    return found


def request_of(
    path: str, body: bytes, *headers: str, key: str = KEY, host: str = "localhost"
) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"x-api-key: {key}", *headers]
    if not any(line.startswith("Transfer-Encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def told(connection: socket.socket) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """The status line, headers and body of an answer with a length."""
    with connection.makefile("rb") as file:
        status, headers = file.readline(), dict[bytes, bytes]()
        while line := file.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        return status, headers, file.read(int(headers.get(b"content-length", 0)))


def asked(server: Served, request: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(request)
        return told(connection)


def logged(capfd: pytest.CaptureFixture[str], count: int) -> list[dict[str, Any]]:
    """So many lines of the access log, which come once an answer has been sent."""
    found, until = "", time.monotonic() + TIMEOUT
    while (found := found + capfd.readouterr().err).count("req_") < count:
        assert time.monotonic() < until, found
        time.sleep(0.001)
    return [json.loads(line) for line in found.splitlines() if "req_" in line]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("closing", [(), ("Connection: x, Close",), ("Connection: close",)])
def test_what_is_turned_away_is_told_the_same(
    server: Served,
    path: str,
    closing: tuple[str, ...],
    passed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    request = request_of(path, json.dumps(PATHS[path]).encode(), *closing)
    early = asked(server, request)
    assert passed == []
    monkeypatch.setattr(Gate, "is_open", True)
    late = asked(server, request)
    assert passed == [path]
    for _, headers, _ in (early, late):
        assert headers.pop(b"x-request-id").startswith(b"req_")
        headers.pop(b"date")
    assert early[0] == late[0] == b"HTTP/1.1 503 Service Unavailable\r\n"
    assert early[2] == late[2]
    assert early[1] == late[1]
    assert (early[1].get(b"connection") == b"close") is bool(closing)
    lines = logged(capfd, 2)
    assert [line.keys() for line in lines] == [lines[0].keys()] * 2
    assert {(line["path"], line["status"], line["tenant"]) for line in lines} == {
        (path, 503, lines[0]["tenant"])
    }


def test_a_connection_goes_on_behind_it(server: Served, passed: list[str]) -> None:
    address = server.url.removeprefix("http://").split(":")
    refused = request_of("/v1/completions", b"{}")
    models = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-api-key: %b\r\n\r\n" % KEY.encode()
    with socket.create_connection((address[0], int(address[1]))) as connection:
        for request, status in [(refused, b"503"), (models, b"200"), (refused, b"503")] * 2:
            connection.sendall(request)
            assert status in told(connection)[0]
    assert passed == ["/v1/models"] * 2


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (request_of("/v1/completions", b"{}", key="another-key"), b"401"),
        (request_of("/v1/completions", b"{}", host="else.where"), b"421"),
        (request_of("/v1/completions", b"{}", "Origin: http://else.where"), b"403"),
        (request_of("/v1/completions", b"{}", "Host: localhost"), b"400"),
        (request_of("/v1/completions", b"{}", "Content-Length: 2"), b"503"),
        (request_of("/v1/completions", b"{}", "Content-Length: 3"), b"400"),
        (request_of("/v1/completions", b"{}") + b"GET / HTTP/1.1\r\n\r\n", b"503"),
        (
            request_of("/v1/completions", b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
            b"503",
        ),
        (request_of("/v1/completions", b"{}", "X-Request-Id: mine"), b"503"),
        (request_of("/v1/completions", b"{}", "a b: c"), b"400"),
        (request_of("/v1/completions?x=1", b"{}"), b"503"),
        (request_of("/v1/embeddings", b'{"input": "x"}'), b"503"),
    ],
)
def test_others_are_looked_at(
    server: Served, request_: bytes, status: bytes, passed: list[str]
) -> None:
    before = len(passed)
    assert status in asked(server, request_)[0]
    assert status == b"400" or len(passed) == before + 1


def test_a_prompt_that_is_echoed_alone_is_answered(
    llm: LLM, passed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(llm) as server:
        monkeypatch.setattr(type(server.service.admission), "has_room", False)
        body = {"prompt": "a", "max_tokens": 0, "echo": True}
        assert server.http.post("/v1/completions", json=body).status_code == 200
        assert server.complete().status_code == 200  # as there is room after all
    assert passed == ["/v1/completions"] * 2


def test_a_request_in_parts_is_looked_at(server: Served, passed: list[str]) -> None:
    address = server.url.removeprefix("http://").split(":")
    request = request_of("/v1/completions", b'{"prompt": "x"}')
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request[:40])
        connection.sendall(request[40:])
        assert b"503" in told(connection)[0]
