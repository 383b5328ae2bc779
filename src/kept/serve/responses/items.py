"""Items of an input, and the messages of a template that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from kept.serve.openai.fields import ShortText
from kept.serve.openai.parts import Parts, text_of
from kept.serve.refusal import Refusal, lacking


class Item(BaseModel):
    """An item of any type; what it must have depends on that."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: ShortText = "message"
    id: ShortText | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Parts | None = None
    call_id: ShortText | None = None
    name: ShortText | None = None
    arguments: str | None = None
    output: str | Parts | None = None
    summary: Parts | None = None


def to_messages(items: Sequence[Item], where: str = "input") -> list[dict[str, Any]]:
    """The messages of a conversation. Raises Refusal for an item that cannot be read.

    What an assistant thinks, says and calls before anybody else speaks is one message.
    """
    found: list[dict[str, Any]] = []
    for i, item in enumerate(items):
        place = f"{where}.{i}"
        said = _said(item, place)
        last = found[-1] if found else None
        if said["role"] == "assistant" and last is not None and last["role"] == "assistant":
            _join(last, said)
        else:
            found.append(said)
    for message in found:
        message.setdefault("content", "")
    return found


def _said(item: Item, where: str) -> dict[str, Any]:
    if item.type == "message":
        if item.role is None:
            raise _lacks(where, item, "role")
        return {"role": item.role, "content": text_of(item.content, f"{where}.content")}
    if item.type == "function_call":
        if item.name is None or item.arguments is None:
            raise _lacks(where, item, "name" if item.name is None else "arguments")
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}
    if item.type == "function_call_output":
        if item.call_id is None:
            raise _lacks(where, item, "call_id")
        text = text_of(item.output, f"{where}.output")
        return {"role": "tool", "tool_call_id": item.call_id, "content": text}
    if item.type == "reasoning":
        # What another's server has sealed, nobody here can read.
        thought = text_of(item.content or item.summary or "", f"{where}.content")
        return {"role": "assistant", **({"reasoning_content": thought} if thought else {})}
    raise Refusal(
        f"{where} is of type {item.type[:40]!r}; this server reads message, function_call, "
        "function_call_output, reasoning and item_reference",
        400,
        "unsupported_item",
        f"{where}.type",
    )


def _join(last: dict[str, Any], said: dict[str, Any]) -> None:
    for name in ("content", "reasoning_content"):
        if name in said:
            last[name] = f"{last[name]}\n{said[name]}" if last.get(name) else said[name]
    if "tool_calls" in said:
        last["tool_calls"] = [*last.get("tool_calls", ()), *said["tool_calls"]]


def _lacks(where: str, item: Item, name: str) -> Refusal:
    return lacking(where, name, f"an item of type {item.type[:40]!r}")
