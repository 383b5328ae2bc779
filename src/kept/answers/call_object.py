"""A call written as a JSON object, read a character at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Final

from kept.answers.parts import Arguments, CallBegun, Part

_STRING: Final = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_HEAD: Final = re.compile(
    rf'\{{\s*(?:"tool_call_id"\s*:\s*{_STRING}\s*,\s*)?"(?:tool_)?name"\s*:\s*({_STRING})\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*\{'
)
_FIRST_KEY: Final = re.compile(r'\{\s*"([^"\\]*)"')
_KEYS: Final = (
    *("name", "arguments", "parameters", "type", "id", "function"),
    *("tool_name", "tool_call_id"),
)
_NAMES: Final = ("arguments", "parameters")
_PAIRS: Final = {"}": "{", "]": "["}
MOST_HEAD: Final = 1 << 16  # characters that are held back to see whether this is a call


class State(Enum):
    """How far an object is: still undecided, a call, the end of one, or nothing of the kind."""

    OPEN = auto()
    CALL = auto()
    DONE = auto()
    NO_CALL = auto()


class Nesting:
    """What of a JSON value is open: objects, arrays and strings, without a look at the rest.

    is_broken: whether something was closed that was not open.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._in_string = self._is_escaped = self.is_broken = False

    @property
    def depth(self) -> int:
        """How many objects and arrays are open."""
        return len(self._open)

    def see(self, character: str) -> None:
        """Take the next character."""
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_string:
            self._is_escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._open.append(character)
        elif character in _PAIRS and (not self._open or self._open.pop() != _PAIRS[character]):
            self.is_broken = True


class CallObject:
    """One call. Its name is told once it is certain, its arguments as they come.

    `{"name": ..., "arguments": {` is certain at once; an object that says it otherwise is
    read to its end first. What was told is never taken back: arguments that turn out to be no JSON
    are told as they are. Where something else follows them than an end or more keys, the call ends
    in front of it. state: how far it is. raw: what it has read, while it is undecided or no call.
    rest: what it has read beyond its end.
    """

    def __init__(self, index: int) -> None:
        """index: its place among the calls of the answer."""
        self._index, self._nesting = index, Nesting()
        self.state, self.raw, self.rest = State.OPEN, "", ""
        self._in_arguments = False
        self._behind = ""  # the arguments; none of it once another key has begun
        self._has_more = False  # such a key

    def see(self, character: str) -> Iterator[Part]:
        """Take the next character, of which the first is "{"."""
        nesting = self._nesting
        if self.state is State.CALL and not self._in_arguments and not self._has_more:
            self._see_behind(character)
            return
        nesting.see(character)
        if self.state is State.OPEN:
            self.raw += character
            yield from self._decide(character)
        elif self._in_arguments:
            yield Arguments(self._index, character)
            self._in_arguments = nesting.depth > 1 and not nesting.is_broken
            if nesting.is_broken:
                self.state = State.DONE
        elif nesting.is_broken or not nesting.depth:
            self.state = State.DONE

    def _see_behind(self, character: str) -> None:
        """Behind the arguments: the object's end, or a comma and another key."""
        found = self._behind.strip()
        self._behind += character
        if character == '"' and found == ",":
            self._has_more = True
            self._nesting.see(character)
        elif not character.isspace() and (found or character != ","):
            self.state = State.DONE
            self.rest = "" if character == "}" else self._behind.lstrip()

    def _decide(self, character: str) -> Iterator[Part]:
        nesting = self._nesting
        if nesting.is_broken or len(self.raw) > MOST_HEAD:
            self.state = State.NO_CALL
        elif not nesting.depth:
            called = call_of(self.raw)
            self.state = State.NO_CALL if called is None else State.DONE
            if called is not None:
                yield CallBegun(self._index, called[0])
                yield Arguments(self._index, called[1])
        elif character == '"' and (first := _FIRST_KEY.fullmatch(self.raw)):
            if first[1] not in _KEYS:
                self.state = State.NO_CALL
        elif character == "{" and nesting.depth == 2:
            head = _HEAD.fullmatch(self.raw)
            name = None if head is None else _string(head[1])
            if name:
                self.state, self._in_arguments = State.CALL, True
                yield CallBegun(self._index, name)
                yield Arguments(self._index, character)


def call_of(text: str) -> tuple[str, str] | None:
    """The name and the arguments, as text, of a JSON object that is a call; None: it is none.

    Arguments that come as JSON within a string count, and so do none at all.
    """
    found = _json(text)
    if not isinstance(found, dict):
        return None
    inner = found.get("function")
    if isinstance(inner, dict) and "name" not in found:
        found = inner
    name = found.get("name", found.get("tool_name"))
    given = [found[key] for key in _NAMES if key in found]
    if not isinstance(name, str) or not name or len(given) > 1:
        return None
    arguments = given[0] if given else {}
    if isinstance(arguments, str):
        return (name, arguments) if isinstance(_json(arguments), dict) else None
    if not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)


def _string(text: str) -> str | None:
    found = _json(text)
    return found if isinstance(found, str) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
