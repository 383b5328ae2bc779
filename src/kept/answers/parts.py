"""The parts of an answer, as they come and as they end up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model says to itself before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of a tool: its place among the calls of the answer, and the tool's name."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of a call, as the text that the model writes: JSON, if it does."""

    index: int
    text: str


Part = Reasoning | Content | CallBegun | Arguments


@dataclass(slots=True)
class ToolCall:
    """A call: the tool's name, and its arguments as text."""

    name: str
    arguments: str = ""

    def to_object(self) -> dict[str, Any] | None:
        """The arguments read; None: they are no JSON object, as those of a call that was cut."""
        try:
            found = json.loads(self.arguments, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    @property
    def text(self) -> str:
        """The call as a text, for who takes calls with an object alone and has none."""
        return (
            f'{{"name": {json.dumps(self.name, ensure_ascii=False)}, "arguments": {self.arguments}'
        )


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@dataclass(slots=True)
class Message:
    """All parts of an answer, put together."""

    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, parts: Iterable[Part]) -> None:
        """Add what has come."""
        for part in parts:
            match part:
                case Reasoning(text):
                    self.reasoning += text
                case Content(text):
                    self.content += text
                case CallBegun(_, name):
                    self.calls.append(ToolCall(name))
                case Arguments(index, text):
                    self.calls[index].arguments += text


def merged(parts: Iterable[Part]) -> list[Part]:
    """Parts of one kind, side by side, as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        match part, last:
            case Reasoning(text), Reasoning(before):
                found[-1] = Reasoning(before + text)
            case Content(text), Content(before):
                found[-1] = Content(before + text)
            case Arguments(index, text), Arguments(same, before) if index == same:
                found[-1] = Arguments(index, before + text)
            case _:
                found.append(part)
    return found
