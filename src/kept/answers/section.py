"""Sections of an answer that are calls and nothing else, read a character at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from kept.answers.call_object import State
from kept.answers.parts import Part

MOST_NAME: Final = 512  # characters that are held back to see whether they name a call


class Section(Protocol):
    """What reads a section behind its opening mark.

    state: OPEN until something is told of it, CALL until it has ended, then DONE, or NO_CALL from
    where it is none. raw: what it has read and told nothing of. num_calls: of the answer so far.
    """

    state: State
    raw: str
    num_calls: int

    def see(self, character: str) -> Iterator[Part]:
        """Take the next character."""

    def rest(self) -> str:
        """What is content of `raw` where the text ends here; beginnings of marks are none."""


SectionReader = Callable[
    [str, int], Section
]  # of the opening mark, and of how many calls there are
