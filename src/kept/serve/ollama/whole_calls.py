"""Calls held back until they are whole, as Ollama's clients take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kept.answers import Arguments, CallBegun, Content, Message, Part, Reasoning, ToolCall


class WholeCalls:
    """Gives each part of an answer as a message with nothing else, a call once all of it is there.

    One whose arguments are no JSON object is content.
    """

    def __init__(self) -> None:
        self._call: ToolCall | None = None

    def add(self, parts: Iterable[Part]) -> Iterator[Message]:
        """Take more parts, give what is whole."""
        for part in parts:
            if isinstance(part, Arguments):
                assert self._call is not None, "a call begins with its name"
                self._call.arguments += part.text
                if part.text.rstrip().endswith("}") and self._call.to_object() is not None:
                    yield from self.finish()
                continue
            yield from self.finish()
            match part:
                case Reasoning(text):
                    yield Message(reasoning=text)
                case Content(text):
                    yield Message(content=text)
                case CallBegun(_, name):
                    self._call = ToolCall(name)

    def finish(self) -> Iterator[Message]:
        """Give the call that is held back."""
        call, self._call = self._call, None
        if call is not None and call.to_object() is None:
            yield Message(content=call.text)
        elif call is not None:
            yield Message(calls=[call])
