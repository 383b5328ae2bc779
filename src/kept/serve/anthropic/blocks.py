"""Blocks of content, and the messages of a template that they come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from kept.serve.openai.fields import ShortText, Wire
from kept.serve.refusal import Refusal, lacking, not_text

MAX_BLOCKS: Final = 65_536
SECONDS: Final[Mapping[str, float]] = {"5m": 300.0, "1h": 3600.0}
# Of Claude Code: the first block of its system prompt, for Anthropic's accounts and new with every
# request; no model is shown it.
_BILLING: Final = "x-anthropic-billing-header:"


class CacheControl(Wire):
    """A wish to keep what comes before it. ttl: for how long after the request's end."""

    type: Literal["ephemeral"] = "ephemeral"
    ttl: Literal["5m", "1h"] = "5m"
    scope: ShortText | None = None  # of beta clients; whose a cache is the key says


class Block(BaseModel):
    """A block of content, of any type; what it must have depends on that."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: ShortText
    text: str | None = None
    cache_control: CacheControl | None = None
    thinking: str | None = None
    id: ShortText | None = None
    name: ShortText | None = None
    input: dict[str, Any] | None = None
    tool_use_id: ShortText | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    source: dict[str, Any] | None = None
    title: str | None = None


Content = str | Annotated[list[Block], Field(max_length=MAX_BLOCKS)]


class Message(BaseModel):
    """One message. A system's may stand anywhere, and stays there."""

    model_config = ConfigDict(extra="forbid", strict=True)
    role: Literal["user", "assistant", "system"]
    content: Content

    def to_template(self, where: str) -> Iterator[dict[str, Any]]:
        """As a template takes it, results of tools as messages of their own. Raises Refusal."""
        if isinstance(self.content, str):
            yield {"role": self.role, "content": self.content}
        elif self.role == "assistant":
            yield _assistant(self.content, f"{where}.content")
        else:
            yield from _parted(self.role, self.content, f"{where}.content")


def text_of(content: Content | None, where: str) -> str:
    """The text of what can be nothing else. Raises Refusal for another block."""
    if isinstance(content, str) or content is None:
        return content or ""
    texts = (_text(block, f"{where}.{i}") for i, block in enumerate(content))
    return "\n".join(text for text in texts if not text.startswith(_BILLING))


def blocks_of(content: Content | None) -> Sequence[Block]:
    """The blocks of a content, and those within results of tools."""
    if content is None or isinstance(content, str):
        return ()
    return [each for block in content for each in (block, *blocks_of(block.content))]


def _parted(role: str, blocks: Sequence[Block], where: str) -> Iterator[dict[str, Any]]:
    """Text and results of tools in the order they came in, text that lies together as one."""
    texts: list[str] = []
    for i, block in enumerate(blocks):
        if block.type != "tool_result":
            texts.append(_text(block, f"{where}.{i}"))
            continue
        if texts:
            yield {"role": role, "content": "\n".join(texts)}
            texts = []
        if block.tool_use_id is None:
            raise _lacks(f"{where}.{i}", block, "tool_use_id")
        result = text_of(block.content, f"{where}.{i}.content")
        yield {
            "role": "tool",
            "tool_call_id": block.tool_use_id,
            "content": f"Error: {result}" if block.is_error else result,
        }
    if texts or not blocks:
        yield {"role": role, "content": "\n".join(texts)}


def _assistant(blocks: Sequence[Block], where: str) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for i, block in enumerate(blocks):
        if block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "redacted_thinking":
            continue  # sealed by somebody else, so that nobody here can read it
        elif block.type == "tool_use":
            if block.name is None or block.input is None:
                raise _lacks(f"{where}.{i}", block, "name" if block.name is None else "input")
            function = {"name": block.name, "arguments": block.input}
            calls.append({"id": block.id, "type": "function", "function": function})
        else:
            texts.append(_text(block, f"{where}.{i}"))
    found: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if any(thoughts):
        found["reasoning_content"] = "\n".join(thoughts)
    if calls:
        found["tool_calls"] = calls
    return found


def _text(block: Block, where: str) -> str:
    if block.type == "text":
        if block.text is None:
            raise _lacks(where, block, "text")
        return block.text
    source = block.source or {}
    data = source.get("data")
    if block.type == "document" and source.get("type") == "text" and isinstance(data, str):
        return data if block.title is None else f"{block.title}\n{data}"
    raise not_text(where, block.type)


def _lacks(where: str, block: Block, name: str) -> Refusal:
    return lacking(where, name, f"a block of type {block.type[:40]!r}")
