"""The blocks of a message while they are written, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kept.answers import Arguments, CallBegun, Content, Part, Reasoning, ToolCall
from kept.entropy import random_name

Told = Iterator[dict[str, Any]]


class Writing:
    """Takes the parts of an answer, and gives the events of its blocks, one after the other:
    content_block_start, _delta ..., _stop.

    A call's arguments are told as they come, so what turns out to be no JSON object is a tool_use
    in a stream; in `blocks`, as in a whole message, it is text. num_calls: those that are none of
    that.
    """

    def __init__(self, *, shows_thinking: bool = True) -> None:
        """shows_thinking: else thinking is a block without its text."""
        self.num_calls = 0
        self._blocks: list[dict[str, Any]] = []
        self._call: ToolCall | None = None
        self._is_open, self._shows_thinking = False, shows_thinking

    @property
    def blocks(self) -> list[dict[str, Any]]:
        """What is written so far."""
        return list(self._blocks)

    def add(self, parts: Iterable[Part]) -> Told:
        """The events of more parts."""
        for part in parts:
            match part:
                case Reasoning(text):
                    yield from self._think(text)
                case Content(text):
                    yield from self._say(text)
                case CallBegun(_, name):
                    yield from self._call_tool(name)
                case Arguments(_, text):
                    assert self._call is not None, "a call begins with its name"
                    self._call.arguments += text
                    delta = {"type": "input_json_delta", "partial_json": text}
                    yield self._event("delta", delta=delta)

    def close(self) -> Told:
        """The end of the block that is open."""
        if not self._is_open:
            return
        if self._blocks[-1]["type"] == "thinking":
            # Nothing is signed; clients want the event all the same.
            yield self._event("delta", delta={"type": "signature_delta", "signature": ""})
        elif self._call is not None:
            self._end_call(self._call)
        self._is_open, self._call = False, None
        yield self._event("stop")

    def _think(self, text: str) -> Told:
        if not self._continues("thinking"):
            block = {"type": "thinking", "thinking": "", "signature": ""}
            yield from self._start(block)
        if self._shows_thinking:
            self._blocks[-1]["thinking"] += text
            yield self._event("delta", delta={"type": "thinking_delta", "thinking": text})

    def _say(self, text: str) -> Told:
        if not self._continues("text"):
            yield from self._start({"type": "text", "text": ""})
            self._blocks[-1]["citations"] = None
        self._blocks[-1]["text"] += text
        yield self._event("delta", delta={"type": "text_delta", "text": text})

    def _call_tool(self, name: str) -> Told:
        block = {"id": f"toolu_{random_name(12)}", "name": name, "input": {}}
        yield from self._start({"type": "tool_use", **block})
        self._call = ToolCall(name)

    def _end_call(self, call: ToolCall) -> None:
        found = call.to_object()
        if found is None:
            self._blocks[-1] = {"type": "text", "text": call.text, "citations": None}
        else:
            self._blocks[-1]["input"] = found
            self.num_calls += 1

    def _continues(self, kind: str) -> bool:
        return self._is_open and self._call is None and self._blocks[-1]["type"] == kind

    def _start(self, block: dict[str, Any]) -> Told:
        yield from self.close()
        self._is_open = True
        self._blocks.append(dict(block))
        yield self._event("start", content_block=block)

    def _event(self, what: str, **more: Any) -> dict[str, Any]:
        return {"type": f"content_block_{what}", "index": len(self._blocks) - 1, **more}
