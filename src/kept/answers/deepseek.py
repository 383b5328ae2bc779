"""Calls as DeepSeek's models write them: a name, and the arguments as JSON by themselves.

V3 and R1 put a kind in front of the name and a fence around the arguments, V3.1 neither; both are
read, whichever the template shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from kept.answers.call_object import Nesting, State
from kept.answers.parts import Arguments, CallBegun, Part
from kept.answers.section import MOST_NAME

CALLS_BEGIN: Final = "<｜tool▁calls▁begin｜>"
CALLS_END: Final = "<｜tool▁calls▁end｜>"
CALL_BEGIN: Final = "<｜tool▁call▁begin｜>"
CALL_END: Final = "<｜tool▁call▁end｜>"
SEPARATOR: Final = "<｜tool▁sep｜>"
FENCE: Final = "```"
_NAME: Final = r"([^\s<{`]{1,256})"
_PLAIN: Final = re.compile(rf"{_NAME}\s*{SEPARATOR}\s*")
_FENCED: Final = re.compile(rf"\s*\w*\s*{SEPARATOR}\s*{_NAME}\s*(?:{FENCE}(?:json)?\s*)?")
_BEHIND: Final = (CALL_END, FENCE + CALL_END)
_BETWEEN: Final = (CALL_BEGIN, CALLS_END)


class DeepSeekCalls:
    """A section of such calls; see `Section`."""

    def __init__(self, opening: str, num_calls: int) -> None:
        """opening: the mark in front of it. num_calls: of the answer before it."""
        self.state, self.raw, self.num_calls = State.OPEN, opening, num_calls
        self._begin = len(opening)  # in `raw`, of what is being looked at
        self._arguments = Nesting()
        self._see = self._between

    def see(self, character: str) -> Iterator[Part]:
        """See `Section.see`."""
        self.raw += character
        yield from self._see(character)

    def rest(self) -> str:
        """See `Section.rest`."""
        is_mark = self.state is State.CALL and self._see != self._in_head
        return "" if is_mark or not self.raw.strip() else self.raw

    def _between(self, character: str) -> Iterator[Part]:
        found = self.raw[self._begin :].strip()
        if found == CALL_BEGIN:
            self._begin, self._see = len(self.raw), self._in_head
        elif found == CALLS_END and self.state is State.CALL:
            self.state = State.DONE
        elif found == CALLS_END or not any(mark.startswith(found) for mark in _BETWEEN):
            self.state = State.NO_CALL
        yield from ()

    def _in_head(self, character: str) -> Iterator[Part]:
        head = self.raw[self._begin :]
        if character == "{":
            found = _PLAIN.fullmatch(head[:-1]) or _FENCED.fullmatch(head[:-1])
            if found is None:
                self.state = State.NO_CALL
                return
            self.state, self.raw, self._begin = State.CALL, "", 0
            self._arguments, self._see = Nesting(), self._in_arguments
            yield CallBegun(self.num_calls, found[1])
            self.num_calls += 1
            yield from self._in_arguments(character)
        elif len(head) > MOST_NAME:
            self.state = State.NO_CALL

    def _in_arguments(self, character: str) -> Iterator[Part]:
        self.raw = ""
        self._arguments.see(character)
        yield Arguments(self.num_calls - 1, character)
        if self._arguments.is_broken or not self._arguments.depth:
            self._see = self._behind

    def _behind(self, character: str) -> Iterator[Part]:
        found = "".join(self.raw.split())
        if found in _BEHIND:
            self.raw, self._begin, self._see = "", 0, self._between
        elif not any(mark.startswith(found) for mark in _BEHIND):
            self.state = State.NO_CALL
        yield from ()
