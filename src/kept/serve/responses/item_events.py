"""The events that tell of one item of an output: its beginning, its text or arguments, its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

CALL: Final = "function_call"
PARTS: Final = {"message": "output_text", "reasoning": "reasoning_text"}  # that hold its text

Told = Iterator[tuple[str, dict[str, Any]]]  # the kind of each event, and its fields


def opening(item: dict[str, Any], index: int) -> Told:
    """The events of an item that begins. index: its place in the output."""
    fresh: dict[str, Any] = {"arguments": ""} if item["type"] == CALL else {"content": []}
    yield (
        "response.output_item.added",
        {"output_index": index, "item": {**item, "status": "in_progress", **fresh}},
    )
    if item["type"] in PARTS:
        [part] = item["content"]
        empty = {**part, "text": ""}
        if "logprobs" in part:
            empty["logprobs"] = []
        yield "response.content_part.added", {**_part(item, index), "part": empty}


def delta(item: dict[str, Any], index: int, text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """The event of more of an item's text or arguments."""
    if item["type"] == CALL:
        where = {"output_index": index, "item_id": item["id"]}
        return "response.function_call_arguments.delta", {**where, "delta": text}
    kind = f"response.{PARTS[item['type']]}.delta"
    return kind, {**_part(item, index), "delta": text, **more}


def closing(item: dict[str, Any], index: int) -> Told:
    """The events of an item that is over."""
    if item["type"] == CALL:
        where = {"output_index": index, "item_id": item["id"]}
        arguments = {"arguments": item["arguments"]}
        yield "response.function_call_arguments.done", {**where, **arguments}
    else:
        [part] = item["content"]
        where = _part(item, index)
        told = {name: part[name] for name in ("text", "logprobs") if name in part}
        yield f"response.{part['type']}.done", {**where, **told}
        yield "response.content_part.done", {**where, "part": dict(part)}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _part(item: dict[str, Any], index: int) -> dict[str, Any]:
    return {"output_index": index, "item_id": item["id"], "content_index": 0}
