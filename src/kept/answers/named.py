"""Calls without a mark, as GLM-4-0414 writes them: a tool's name on a line, and its arguments."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from kept.answers.call_object import Nesting, State
from kept.answers.parts import Arguments, CallBegun, Part

AGAIN: Final = "<|assistant|>"  # what may stand in front of a second call
_CALL: Final = re.compile(r"\s*(\S+)[ \t]*\n\s*\{")


class NamedCalls:
    """The beginning of an answer that may be such calls; see `Section`.

    Only the names of tools that there are count, so that text is held back no longer than it
    could be one of them.
    """

    def __init__(self, tools: Collection[str], num_calls: int) -> None:
        """tools: the names. num_calls: of the answer before it."""
        self.state, self.raw, self.num_calls = State.OPEN, "", num_calls
        self._tools = tools
        self._arguments: Nesting | None = None

    def see(self, character: str) -> Iterator[Part]:
        """See `Section.see`."""
        if self._arguments is not None:
            yield from self._in_arguments(self._arguments, character)
            return
        self.raw += character
        text = self.raw.lstrip()
        if self.state is State.CALL:
            if text and AGAIN.startswith(text):
                return
            text = text.removeprefix(AGAIN).lstrip()
        found = _CALL.fullmatch(text) if character == "{" else None
        if found is not None and found[1] in self._tools:
            self.state, self.raw, self._arguments = State.CALL, "", Nesting()
            yield CallBegun(self.num_calls, found[1])
            self.num_calls += 1
            yield from self._in_arguments(self._arguments, character)
        elif not self._may_be(text):
            self.state = State.NO_CALL

    def rest(self) -> str:
        """See `Section.rest`."""
        text = self.raw.strip()
        is_mark = self.state is State.CALL and AGAIN.startswith(text)
        return "" if not text or is_mark else self.raw

    def _in_arguments(self, arguments: Nesting, character: str) -> Iterator[Part]:
        arguments.see(character)
        yield Arguments(self.num_calls - 1, character)
        if arguments.is_broken or not arguments.depth:
            self._arguments = None

    def _may_be(self, text: str) -> bool:
        name, *rest = text.split("\n", 1)
        if rest:
            return name.rstrip() in self._tools and not rest[0].strip()
        return name.rstrip() in self._tools or any(tool.startswith(name) for tool in self._tools)
