"""What a prefix tree holds for layers with a window, which may go before the texts that it is of.

    tokens of a text    0 ............. 640 ........ 1000 ........ 1664     window 360
    all layers          x  x  x  x  x  x  x  x  x  x  x  x  x  x  x  x
    with the window     .  .  .  .  .  .  .  .  .  .  x  x  x  x  x  x

A text is found up to a token where the blocks of the window before it are there. Where texts ended
or somebody went on from is where the next one will: these blocks are wanted, by when they last
were. All others are spare, and go first, the ones that came first before others.

Which stacks there are is the truth; what is counted of them is made anew after an exception.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self

from kept.blocks.stack import Stack

Held = Sequence[Collection[int]]  # of each group, the numbers of blocks that are in use elsewhere


class _Ticket(weakref.ref[Stack]):
    """A stack on the shelf. ids: of each group, the block it is counted with. used: in seconds."""

    __slots__ = ("ids", "used")
    ids: tuple[int | None, ...]
    used: float

    def __new__(cls, stack: Stack, then: Callable[[Any], object]) -> Self:
        found = super().__new__(cls, stack, then)
        found.ids, found.used = (), 0.0
        return found

    # Of tickets that are dead or alive: each is one of its own.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class WindowShelf:
    """The stacks of a tree that hold blocks of groups with a window, and which of them go first.

    sizes: of each group the bytes of a block, None: it has no window. clock: seconds; injected by
    tests. Not safe to use from several threads at once; stacks may be dropped anywhere.
    """

    def __init__(
        self, sizes: Sequence[int | None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sizes, self._clock = tuple(sizes), clock
        self._spare: OrderedDict[_Ticket, None] = OrderedDict()
        self._wanted: OrderedDict[_Ticket, None] = OrderedDict()
        self._counts: list[Counter[int]] = [Counter() for _ in sizes]
        self._dropped: deque[_Ticket] = deque()
        self._is_changing = False

    def put(self, stacks: Iterable[Stack], *, wanted: bool, retain: float = 0.0) -> None:
        """Note stacks that a tree holds. wanted: whether somebody has gone on behind them, or is
        likely to. retain: for how many seconds from now those wanted count as used."""
        self._settle()
        self._is_changing = True
        for stack in stacks:
            ids = self._ids(stack)
            if any(id is not None for id in ids):
                self._put(stack, ids, wanted, retain)
        self._is_changing = False

    def num_bytes(self, held: Held) -> int:
        """Bytes that evicting all would free. held: see `Held`."""
        self._settle()
        total = 0
        for size, counts, others in zip(self._sizes, self._counts, held, strict=True):
            if size is not None:
                total += size * (len(counts) - sum(id in counts for id in others))
        return total

    def oldest(self, held: Held, *, wanted: bool) -> float | None:
        """When the spare blocks, or the wanted ones, that `evict` lets go of were wanted; None:
        there are none, 0.0: never."""
        self._settle()
        first = self._first(held, wanted)
        return None if first is None else first.used

    def evict(self, held: Held, *, wanted: bool) -> bool:
        """Let go of the spare blocks, or the wanted ones, of the stack that goes first, of those
        whose blocks are not all in use elsewhere; whether there was one."""
        self._settle()
        first = self._first(held, wanted)
        if first is None:
            return False
        self._is_changing = True
        self._let_go(first)
        self._is_changing = False
        return True

    def _first(self, held: Held, wanted: bool) -> _Ticket | None:
        """What goes first; what a sequence that runs has, or is retained, is put behind."""
        order = self._wanted if wanted else self._spare
        now, retained = self._clock(), None
        for _ in range(len(order)):
            ticket = next(iter(order))
            if self._frees(ticket, held):
                if ticket.used <= now:
                    return ticket
                if retained is None or ticket.used < retained.used:
                    retained = ticket
            order.move_to_end(ticket)
        return retained

    def _frees(self, ticket: _Ticket, held: Held) -> bool:
        pairs = zip(ticket.ids, held, strict=True)
        return any(id is not None and id not in others for id, others in pairs)

    def _let_go(self, ticket: _Ticket) -> None:
        stack = ticket()
        if stack is not None:
            pairs = zip(stack.blocks, self._sizes, strict=True)
            stack.blocks = tuple(block if size is None else None for block, size in pairs)
            stack.ticket = None
        self._forget(ticket)

    def _put(self, stack: Stack, ids: tuple[int | None, ...], wanted: bool, retain: float) -> None:
        ticket = stack.ticket
        if not isinstance(ticket, _Ticket):
            ticket = stack.ticket = _Ticket(stack, self._dropped.append)
        if ticket not in self._spare and ticket not in self._wanted:
            ticket.ids = ()  # an exception may have come before it had its place
        if ids != ticket.ids:
            self._count(ticket.ids, -1)
            ticket.ids = ids
            self._count(ids, 1)
        if wanted:
            ticket.used = max(ticket.used, self._clock() + retain)
            self._wanted[ticket] = None
            self._wanted.move_to_end(ticket)
            self._spare.pop(ticket, None)
        elif ticket not in self._wanted:
            self._spare[ticket] = None

    def _ids(self, stack: Stack) -> tuple[int | None, ...]:
        pairs = zip(stack.blocks, self._sizes, strict=True)
        return tuple(None if x is None or size is None else x.id for x, size in pairs)

    def _count(self, ids: Iterable[int | None], by: int) -> None:
        for counts, id in zip(self._counts, ids, strict=False):
            if id is not None:
                counts[id] += by
                if not counts[id]:
                    del counts[id]

    def _forget(self, ticket: _Ticket) -> None:
        self._spare.pop(ticket, None)
        self._wanted.pop(ticket, None)
        self._count(ticket.ids, -1)
        ticket.ids = ()

    def _settle(self) -> None:
        """Bring what is counted up to date."""
        if self._is_changing:
            self._count_anew()
        while self._dropped:
            self._is_changing = True
            self._forget(self._dropped.popleft())
            self._is_changing = False

    def _count_anew(self) -> None:
        for ticket in self._wanted:
            self._spare.pop(ticket, None)
        self._counts = [Counter() for _ in self._sizes]
        for order in (self._spare, self._wanted):
            for ticket in list(order):
                stack = ticket()
                if stack is None or stack.ticket is not ticket:
                    del order[ticket]
                    ticket.ids = ()
                else:
                    ticket.ids = self._ids(stack)
                    self._count(ticket.ids, 1)
        self._is_changing = False
