"""Bytes of memory that several pools and caches may take together.

Who takes some holds a `Reservation`, and gives them back with it: Python counts the references, so
that nothing is to be undone where an exception comes in between.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from kept.errors import CacheFullError
from kept.format import format_bytes

UNLIMITED = 1 << 62  # bytes that no machine has


class Reservation:
    """Bytes that its holder may take; they are free again with the last reference to it."""

    __slots__ = ("__weakref__", "_change", "_ticket")
    _ticket: _Ticket

    def __init__(self, change: Callable[[_Ticket, int], None]) -> None:
        self._change = change

    @property
    def num_bytes(self) -> int:
        """How many they are."""
        return self._ticket.num_bytes

    def change(self, num_bytes: int) -> None:
        """Have so many in place of those. Raises CacheFullError, changing nothing, where more are
        not free."""
        self._change(self._ticket, num_bytes)


class _Ticket(weakref.ref[Reservation]):
    """What the budget knows of a reservation: its bytes."""

    __slots__ = ("num_bytes",)
    num_bytes: int

    def __new__(cls, of: Reservation, then: Callable[[Any], object]) -> Self:
        found = super().__new__(cls, of, then)
        found.num_bytes = 0
        return found


class Budget:
    """At most `limit` bytes, None: any number. Safe to use from several threads, and to let go of
    its reservations anywhere, at any moment. lock: held while anything of it changes."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._tickets: dict[int, _Ticket] = {}  # by id()
        self._let_go: deque[_Ticket] = deque()
        # Which a thread that was interrupted can enter again; the pools of this budget have it too.
        self.lock = threading.RLock()

    @property
    def taken(self) -> int:
        """Bytes that are reserved."""
        with self.lock:
            while self._let_go:
                self._tickets.pop(id(self._let_go[0]), None)
                self._let_go.popleft()
            return sum([ticket.num_bytes for ticket in self._tickets.values()])

    @property
    def free(self) -> int:
        """Bytes that may be reserved."""
        return (UNLIMITED if self.limit is None else self.limit) - self.taken

    def reserve(self, num_bytes: int = 0) -> Reservation:
        """So many bytes for who holds what this returns. Raises CacheFullError where they are not
        free."""
        found = Reservation(self._change)
        found._ticket = ticket = _Ticket(found, self._let_go.append)
        with self.lock:
            self._tickets[id(ticket)] = ticket
            found.change(num_bytes)
        return found

    def _change(self, ticket: _Ticket, num_bytes: int) -> None:
        with self.lock:
            more, free = num_bytes - ticket.num_bytes, self.free
            if more > max(free, 0):
                raise CacheFullError(
                    f"{format_bytes(more)} more of keys and values are needed, and "
                    f"{format_bytes(max(free, 0))} of {format_bytes(self.limit or UNLIMITED)} are "
                    "free; let other texts end, or give more memory (kv_memory)"
                )
            ticket.num_bytes = num_bytes
