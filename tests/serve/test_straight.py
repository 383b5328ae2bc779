"""Requests for texts go past the router, and what is wrong with them is told as behind it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from kept import LLM
from kept.serve import app, straight
from kept.serve.service import Service

from .serving import Served, served

CHAT = [{"role": "user", "content": "x"}]
PATHS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "def f", "max_tokens": 2},
    "/v1/chat/completions": {"messages": CHAT, "max_tokens": 2},
    "/v1/responses": {"input": "x", "max_output_tokens": 2},
    "/v1/messages": {"messages": CHAT, "max_tokens": 2},
}
WRONG: tuple[tuple[str, Any], ...] = (
    ("application/json", b'{"prompt": '),
    ("application/json", b"null"),
    ("application/json", b"[]"),
    ("application/json", b'{"temperature": NaN}'),
    ("application/json", b'{"nobody": 1}'),
    ("application/json", b'{"priority": 1}'),
    ("text/plain", b"{}"),
)


@pytest.fixture(scope="module")
def server(llm: LLM) -> Iterator[Served]:
    with served(llm) as found:
        yield found


def all_paths() -> set[str]:
    return {path for protocol in app.PROTOCOLS for path in protocol.texts}


@pytest.mark.parametrize("path", PATHS)
def test_right_requests_go_straight(
    server: Served, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(PATHS) == all_paths()
    assert server.http.post(path, json=PATHS[path]).status_code == 200  # both find the prompt then
    routed_paths, route = list[str](), FastAPI.__call__

    async def noting(self: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        routed_paths.append(scope["path"])
        await route(self, scope, receive, send)

    monkeypatch.setattr(FastAPI, "__call__", noting)
    whole = server.http.post(path, json=PATHS[path])
    assert whole.status_code == 200, whole.text
    assert routed_paths == []
    monkeypatch.setattr(straight, "_read", lambda *given: None)  # by the router
    routed = server.http.post(path, json=PATHS[path])
    assert routed.status_code == 200
    assert routed_paths == [path]
    assert shape(routed.json()) == shape(whole.json())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("kind", "body"), WRONG)
def test_wrong_requests_are_told_as_ever(
    server: Served, path: str, kind: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = server.http.post(path, content=body, headers={"Content-Type": kind})
    assert 400 <= found.status_code < 500
    monkeypatch.setattr(straight, "_read", lambda *given: None)
    routed = server.http.post(path, content=body, headers={"Content-Type": kind})
    assert without_ids(found.json()) == without_ids(routed.json())


@pytest.mark.parametrize("path", PATHS)
def test_a_fault_of_an_endpoint_is_answered_and_logged(
    server: Served, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: Any) -> None:
        raise ZeroDivisionError("of the endpoint")

    monkeypatch.setattr(Service, "check_open", fail)
    with caplog.at_level(logging.ERROR):
        found = server.http.post(path, json=PATHS[path])
    assert found.status_code == 500
    assert "of the endpoint" not in found.text
    assert any(r.exc_info and r.exc_info[0] is ZeroDivisionError for r in caplog.records)


def test_small_prompts_are_read_where_they_are_and_others_apart(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.complete("x").status_code == 200  # an engine is there
    apart = list[bool]()
    in_thread = Service.in_thread

    def noting(self: Service, do: Any, *, is_long: bool = False) -> Any:
        apart.append(is_long)
        return in_thread(self, do, is_long=is_long)

    monkeypatch.setattr(Service, "in_thread", noting)
    assert server.complete("def f(x):", max_tokens=1).status_code == 200
    assert server.complete([5] * 300, max_tokens=1).status_code == 200
    assert server.chat(max_tokens=1).status_code == 200
    assert not apart
    assert server.complete(["a", "b"], max_tokens=1).status_code == 200
    assert server.complete("x " * 1100, max_tokens=1).status_code in (200, 400)
    assert server.complete("x", max_tokens=4, guided_regex="[ab]{2}").status_code == 200
    assert len(apart) == 3
    assert server.complete("x", max_tokens=1, temperature=0, stop=["a"]).status_code == 200
    refused = server.complete("x", min_p=0.5, stop_token_ids=[1 << 20])  # found while it is read
    assert refused.status_code == 400
    assert len(apart) == 3
    assert server.has_idle_engines()  # a refused one gave its place back


def shape(value: Any) -> Any:
    """The names of an object, without what differs between two answers."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


def without_ids(value: dict[str, Any]) -> str:
    return json.dumps({name: inner for name, inner in value.items() if name != "request_id"})
