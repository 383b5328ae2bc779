"""Memory that blocks wait in until they are written, used again: what is new has to be taken from
the system page by page, for longer than it takes to fill it."""

from __future__ import annotations

from collections import deque
from typing import Final

MOST_KEPT: Final = 64 << 20  # bytes


class Buffers:
    """Buffers by their sizes. Threads may share it."""

    def __init__(self) -> None:
        self._spare: dict[int, deque[bytearray]] = {}

    def take(self, size: int) -> memoryview:
        """A buffer of so many bytes, which may hold anything."""
        try:
            return memoryview(self._spare[size].pop())
        except (KeyError, IndexError):
            return memoryview(bytearray(size))

    def give(self, view: memoryview) -> None:
        """Take a buffer back that nobody reads any more."""
        buffer = view.obj
        if isinstance(buffer, bytearray):
            spare = self._spare.setdefault(len(buffer), deque())
            if len(spare) < max(1, MOST_KEPT // len(buffer)):
                spare.append(buffer)
