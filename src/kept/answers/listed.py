"""Calls as a JSON list of objects behind a mark, as Phi 4 mini, Granite 3 and Command R7B write."""

from __future__ import annotations

from collections.abc import Iterator

from kept.answers.call_object import CallObject, State
from kept.answers.parts import CallBegun, Part


class ListedCalls:
    """A section of such calls; see `Section`. An object without a list around it is one call."""

    def __init__(self, opening: str, num_calls: int, closing: str | None = None) -> None:
        """opening: the mark in front of it. num_calls: of the answer before it. closing: the mark
        that ends it, None: it ends with the list."""
        self.state, self.raw, self.num_calls = State.OPEN, opening, num_calls
        self._closing = closing or ""
        self._begin = len(opening)  # in `raw`, of what is being looked at
        self._call: CallObject | None = None
        self._starts: tuple[str, ...] = ("[{", "{")  # what may come before a call, and its first
        self._is_list = False

    def see(self, character: str) -> Iterator[Part]:
        """See `Section.see`."""
        if self._call is not None:
            yield from self._in_call(self._call, character)
            return
        self.raw += character
        found = "".join(self.raw[self._begin :].split())
        if found in self._starts:
            self._is_list = self._is_list or found != "{"
            self.raw, self._call = self.raw[:-1], CallObject(self.num_calls)
            yield from self._in_call(self._call, character)
        elif self._ends(found):
            self.state = State.DONE
        elif self.state is State.CALL and self._is_list and found == "]":
            self.raw, self._begin, self._is_list, self._starts = "", 0, False, ()
        elif not self._may_be(found):
            self.state = State.NO_CALL

    def rest(self) -> str:
        """See `Section.rest`."""
        if self._call is not None:
            return self.raw + self._call.raw if self._call.state is State.OPEN else ""
        return "" if self.state is State.CALL else self.raw

    def _in_call(self, call: CallObject, character: str) -> Iterator[Part]:
        for part in call.see(character):
            if isinstance(part, CallBegun):
                self.num_calls += 1
                self.state, self.raw, self._begin = State.CALL, "", 0
            yield part
        if call.state is State.NO_CALL:
            self.raw, self.state = self.raw + call.raw, State.NO_CALL
        elif call.state is State.DONE:
            self._call, self._starts = None, (",{",) if self._is_list else ()
            if not self._is_list and not self._closing:
                self.state, self.raw = State.NO_CALL if call.rest else State.DONE, call.rest
                return
            for each in call.rest:
                if self.state is State.NO_CALL:
                    self.raw += each
                else:
                    yield from self.see(each)

    def _ends(self, found: str) -> bool:
        return self.state is State.CALL and found == ("]" if self._is_list else "") + self._closing

    def _may_be(self, found: str) -> bool:
        ends = ("]" if self._is_list else "") + self._closing if self.state is State.CALL else ""
        return any(text.startswith(found) for text in (*self._starts, ends))
