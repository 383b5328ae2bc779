"""A client that costs little: one connection for each request, read as it comes."""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Told:
    """What a request came to.

    status: 0 where nothing was answered. at: seconds from its sending to each piece with text.
    seconds: until its end. is_whole: the stream said that it had ended. error: what it said in
    place of that.
    """

    status: int = 0
    text: str = ""
    at: list[float] = field(default_factory=list)
    seconds: float = 0.0
    is_whole: bool = False
    usage: dict[str, Any] = field(default_factory=dict)
    finish: str | None = None
    error: str = ""
    heard: list[tuple[float, bytes]] = field(default_factory=list)

    def read(self) -> None:
        """Take in what was only heard, where `ask` was told to put that off."""
        data, ends, end = b"".join(piece for _, piece in self.heard), list[int](), 0
        for _, piece in self.heard:
            end += len(piece)
            ends.append(end)
        begin = 0
        while not self.is_whole and not self.error and (end := data.find(b"\n", begin)) >= 0:
            self.take(data[begin:end], self.heard[bisect_right(ends, end)][0])
            begin = end + 1

    def take(self, line: bytes, at: float) -> None:
        """Take in a line of a stream."""
        if not line.startswith(b"data: "):  # comments, and the sizes of HTTP's chunks
            return
        if line.startswith(b"data: [DONE]"):
            self.is_whole = True
            return
        found = json.loads(line[6:])
        if "error" in found:
            self.error = json.dumps(found)[:300]
            return
        self.usage = found.get("usage") or self.usage
        for choice in found["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            if choice["text"]:
                self.text += choice["text"]
                self.at.append(at)


async def ask(
    address: tuple[str, int],
    body: dict[str, Any],
    key: str | None = None,
    path: str = "/v1/completions",
    leave_after: int | None = None,
) -> Told:
    """Send a request and hear its answer. leave_after: pieces after which the client just leaves;
    0: with the head of the answer, or before, where there is no stream."""
    told, began = Told(), time.perf_counter()
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "" if key is None else f"x-api-key: {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection(*address, limit=1 << 22)
    except OSError as error:
        told.error = str(error)
        return told
    try:
        writer.write(head.encode() + data)
        await writer.drain()
        first = await reader.readline()
        told.status = int(first.split()[1]) if first else 0
        while (await reader.readline()).strip():
            continue  # no header says what is counted
        if told.status != 200 or not body.get("stream"):
            await _whole(reader, told)
        else:
            await _stream(reader, told, began, leave_after)
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        told.error = repr(error)
    finally:
        told.seconds = time.perf_counter() - began
        writer.close()
    return told


async def _whole(reader: asyncio.StreamReader, told: Told) -> None:
    data = await reader.read()
    found = json.loads(data[data.index(b"{") : data.rindex(b"}") + 1])
    if told.status != 200:
        told.error = json.dumps(found)[:300]
        return
    told.text, told.usage = found["choices"][0]["text"], found["usage"]
    told.is_whole = True


async def _stream(
    reader: asyncio.StreamReader, told: Told, began: float, leave_after: int | None
) -> None:
    while leave_after is None or len(told.at) < leave_after:
        line = await reader.readline()
        told.take(line, time.perf_counter() - began)
        if not line or told.is_whole or told.error:
            return


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")
