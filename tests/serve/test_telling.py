"""What a token costs to tell: events made once, straight to the connection, counted as it comes."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.serve.connection import Connection, Gathering
from kept.serve.sse import sse
from kept.serve.template import TEXT, Template

from .serving import Served
from .test_openai import chunks

CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}


@given(text=st.text(st.characters()), name=st.sampled_from([None, "delta"]))
def test_a_template_is_the_event_itself(text: str, name: str | None) -> None:
    """Half surrogates too, which stay the escapes they came as."""

    def event(text: str) -> dict[str, Any]:
        return {"id": 'a"\\é', "choices": [{"delta": {"content": text}, "n": None}], "x": 1.5}

    assert Template(event(TEXT), name).filled(text) == sse(event(text), name)


def test_half_a_surrogate_in_a_template() -> None:
    told = Template({"text": TEXT}).filled("a\ud800")
    assert json.loads(told.removeprefix(b"data: ")) == {"text": "a\ud800"}


@pytest.mark.parametrize(
    ("version", "paused", "gone", "written"),
    [
        (b"1.1", False, False, [b"3\r\nabc\r\n"]),
        (b"1.1", True, False, None),  # until its client has read more
        (b"1.0", False, False, None),  # whose pieces have no sizes
        (b"1.1", False, True, []),
    ],
)
def test_a_piece_goes_straight_to_the_connection(
    version: bytes, paused: bool, gone: bool, written: list[bytes] | None
) -> None:
    found: list[bytes] = []
    fake: Any = SimpleNamespace(
        cycle=SimpleNamespace(disconnected=gone),
        conn=SimpleNamespace(their_http_version=version),
        flow=SimpleNamespace(write_paused=paused),
        transport=SimpleNamespace(write=found.append),
    )
    takes = Connection.takes_pieces.fget(fake)  # type: ignore[attr-defined]
    assert takes is (written is not None)
    if takes:
        Connection.hand_on(fake, b"abc")
    assert found == (written or [])


def test_what_is_written_in_a_turn_of_the_loop_goes_at_once() -> None:
    sent: list[bytes] = []
    closed: list[int] = []
    under: Any = SimpleNamespace(write=sent.append, close=lambda: closed.append(len(sent)))

    async def write() -> None:
        transport = Gathering(under, asyncio.get_running_loop())
        for data in (b"head", b"", b"body"):
            transport.write(data)
        assert not sent
        await asyncio.sleep(0)
        assert sent == [b"headbody"]
        transport.write(b"end")
        transport.close()
        await asyncio.sleep(0)

    asyncio.run(write())
    assert sent == [b"headbody", b"end"]
    assert closed == [2], "closed before its last words"


def test_streams_are_the_same_to_older_clients(server: Served) -> None:
    """HTTP/1.0 has no pieces with sizes, and a stream ends with its connection."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "def add", "max_tokens": 9, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    told = answer.partition(b"\r\n\r\n")[2]
    assert told.endswith(b"data: [DONE]\n\n")
    objects = [json.loads(line[6:]) for line in told.split(b"\n\n")[:-2]]
    newer = chunks(server, "/v1/completions", {"prompt": "def add", "max_tokens": 9})
    texts = [[c["choices"][0]["text"] for c in each] for each in (objects, newer)]
    assert "".join(texts[0]) == "".join(texts[1])


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_objects_are_the_same_however_they_are_made(path: str, server: Served) -> None:
    """Those that only go on come of a template, unless each says what it took."""
    body = {"prompt": "def add"} if path == "/v1/completions" else {"messages": [_SAID]}
    body |= {"max_tokens": 12, "ignore_eos": True}
    quick = chunks(server, path, {**body, "stream_options": {"include_usage": True}})
    slow = chunks(server, path, {**body, "stream_options": CONTINUOUS, "timings_per_token": True})
    assert all(each["usage"] for each in slow)
    for told in (quick, slow):
        for each in told:
            del each["usage"], each["id"], each["created"]
            each.pop("timings", None)
    assert _joined(quick) == _joined(slow)


def test_usage_so_far_counts_what_has_been_told(server: Served) -> None:
    body = {"prompt": "def sub", "max_tokens": 30, "ignore_eos": True, "n": 2, "seed": 3}
    told = chunks(server, "/v1/completions", {**body, "stream_options": CONTINUOUS})
    counts = [each["usage"]["completion_tokens"] for each in told]
    assert counts == sorted(counts)
    assert counts[-1] == 60
    assert told[-1]["usage"]["prompt_tokens"] == told[0]["usage"]["prompt_tokens"]


_SAID = {"role": "user", "content": "add two numbers"}


def _joined(told: list[Any]) -> list[Any]:
    """Objects without what depends on how many tokens came at once."""
    text, rest = "", []
    for each in told:
        for choice in each["choices"]:
            delta = choice.get("delta", choice)
            text += delta.pop("content", delta.pop("text", ""))
        if each not in rest:
            rest.append(each)
    return [text, *rest]
