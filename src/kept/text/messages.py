"""What a chat template is given: checked messages, made of plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kept.errors import TemplateError

# A message's reasoning goes by several names; templates read the first, some the second.
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


def prepare_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check a conversation and copy it for a template; the caller's messages are not touched.

    Keys whose value is None are dropped and reasoning is given under each name templates read,
    as transformers does.
    Raises `TemplateError` naming the message when one is not a mapping with a role and a content
    (or tool calls in its place).
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise TemplateError(
            f"messages is a {type(messages).__name__}; give a list of messages such as "
            '{"role": "user", "content": "Hello"}'
        )
    if not messages:
        raise TemplateError("messages is empty; a chat needs at least one message")
    return [_prepare_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def plain(value: Any, where: str) -> Any:
    """Copy a value made of None, bool, int, float, str, lists, tuples and mappings.

    Subclasses lose what they add, so that a template meets nothing with methods of its own.
    Raises `TemplateError` naming the place `where` for any other type, and for a list in itself.
    """
    try:
        return _plain(value, where)
    except RecursionError:
        raise TemplateError(f"{where[:200]} is nested too deeply, or within itself") from None


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    # The base's own conversion, which a subclass (an enum, a numpy scalar) cannot override.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(k, where): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TemplateError(
        f"{where} is a {type(value).__name__}; a chat template takes only JSON values "
        "(text, numbers, true, false, null, lists and objects)"
    )


def _prepare_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TemplateError(
            f"{where} is a {type(message).__name__}; each message is a mapping such as "
            '{"role": "user", "content": "Hello"}'
        )
    copy = {key: plain(value, f"{where}[{key!r}]") for key, value in message.items()}
    copy = {key: value for key, value in copy.items() if value is not None}
    if not isinstance(copy.get("role"), str):
        raise TemplateError(
            f"{where} has the role {message.get('role')!r}; "
            'give it a "role" such as "system", "user" or "assistant"'
        )
    if "content" not in copy and "tool_calls" not in copy and not _reasoning(copy):
        raise TemplateError(f'{where} has no "content"; give its text under that key')
    if not isinstance(copy.get("content", ""), str | list | tuple):
        raise TemplateError(
            f"{where} has content of type {type(copy['content']).__name__}; "
            "it must be text or a list of content blocks"
        )
    if reasoning := _reasoning(copy):
        copy = {"thinking": reasoning[0], **copy, "reasoning_content": reasoning[0]}
    return copy


def _reasoning(message: Mapping[str, Any]) -> list[Any]:
    return [message[name] for name in REASONING_FIELDS if message.get(name) is not None][:1]
