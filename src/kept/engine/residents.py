"""Which continuation lives in which slot of the cache, for as long as it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappush

from kept.blocks import KnownText
from kept.cache import Cache
from kept.engine.continuation import Continuation
from kept.engine.counters import PoolBlocks
from kept.engine.group import Move
from kept.engine.holds import Hold
from kept.engine.looking import NOBODY, Look
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.room import Helper
from kept.engine.scheduler import Scheduler
from kept.engine.slot_caches import Held


class Residents:
    """The slots of a cache whose sequences share nothing, or their numbers where there is none."""

    def __init__(self, cache: Cache | None, num_slots: int) -> None:
        self.cache: Cache | None = cache
        self.num_slots = num_slots
        self.failed: dict[Request, Exception] = {}  # that `start` had no memory for, and why
        self._free = list(range(num_slots))  # a heap: the lowest goes first
        self._in: dict[int, Continuation] = {}

    def promised(self, running: Sequence[Request]) -> int:
        """Bytes that running requests need and have not reserved."""
        return 0

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        return 0

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        return None

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""

    def check(self, request: Request, beside: int = 0) -> None:
        """Raise CacheFullError for a request that the cache could not hold alone, with so many
        bytes beside it."""

    def needed_bytes(self, request: Request) -> int:
        """Bytes that have to be had for it to start."""
        return 0

    def blocks(self) -> PoolBlocks | None:
        """How the blocks of the pool are used; None: there is none."""
        return None

    def look(self, requests: Iterable[Request]) -> Look:
        """The blocks of the pool and what is known of them; requests: those that run."""
        return Look((NOBODY,), (0,), ())

    def texts(self) -> list[KnownText]:
        """Those that can be found."""
        return []

    def drop(self, id: str, salt: str) -> bool:
        """Let a text be found no more, in files neither; False: nobody knows it."""
        return False

    def forget(self) -> None:
        """Let no text that has ended be found again, and give free memory back to the system."""

    def hand_over(self, continuation: Continuation) -> Held | None:
        """What holds the keys of a continuation that has left; None: nothing that can be taken
        away."""
        return None

    def expect(self, num_requests: int) -> None:
        """Note that so many requests wait, of which `start` is asked next."""

    def hold(self, request: Request, running: Sequence[Request]) -> Hold | None:
        """Which running request computes what this one begins with, too; None: none does."""
        return None

    def max_steps(self, live: Sequence[Continuation]) -> list[int | None]:
        """How many tokens each may bring to its slot in one pass; None: any number."""
        if self.cache is None:
            return [None] * len(live)
        return self.cache.max_steps([c.slot for c in live if c.slot is not None])

    def start(self, request: Request, running: Sequence[Request], beside: int = 0) -> bool:
        """Give its sequences slots, and keys as far as some are to be had; False: there is no room.

        A slot keeps the first `num_computed` of the tokens it holds. running: those that need room
        besides. beside: bytes that it needs beside its slots. Mutates the cache and the
        continuations.
        """
        if self.cache is not None:
            for continuation in request.live:
                self._seat(continuation, continuation.num_computed)
        return True

    def make_room(
        self, work: Sequence[Work], scheduler: Scheduler, park: Callable[[Request], None]
    ) -> None:
        """See to it that the next pass can store its tokens; `park` is called with requests that
        have to make room, whose continuations have no slot then."""

    @property
    def awaited(self) -> Helper | None:
        """Who brings what requests are held for, beside those that run; None: nobody does."""
        return None

    def take_ahead(self, count: int) -> bool:
        """See to it, if nobody is to be parked for it, that so many sequences can take room for
        some tokens more than one; whether they can for one at least."""
        return False

    def computed(self, request: Request) -> None:
        """Note that a pass has read some of a request's prompt."""

    def filled(self, request: Request) -> None:
        """Note that a pass has come to the end of a block behind a request's prompt."""

    def move(self, moves: Sequence[Move]) -> None:
        """Give every continuation that goes on from another's keys these keys, and a slot if it
        has none. Mutates the cache and the continuations."""
        if self.cache is None:
            return
        new = [move.continuation for move in moves if move.continuation.slot is None]
        taken = dict(zip(new, sorted(self._free), strict=False))
        order = list(range(self.num_slots))
        for move in moves:
            source, slot = move.parent.slot, move.continuation.slot
            assert source is not None, "who gives keys has a slot"
            order[taken[move.continuation] if slot is None else slot] = source
        if order != list(range(self.num_slots)):
            self.cache.reorder(order)
        for continuation, slot in taken.items():
            self._settle(continuation, slot)
        heapify(self._free)

    def leave(self, request: Request, gone: Iterable[Continuation]) -> None:
        """Take the slots away of continuations that do not go on."""
        for continuation in gone:
            if continuation.slot is not None:
                continuation.cache_bytes = self._bytes_of(continuation)
                self._vacate(continuation)
        for result in request.group.results:  # of a search whose beams had the slots
            most = max((c.cache_bytes for c in request.group.members), default=0)
            result.cache_bytes = result.cache_bytes or most

    def park(self, request: Request) -> None:
        """Take all of its slots away, keeping what keys can be found again."""
        self.leave(request, request.group.members)
        for continuation in request.group.members:
            continuation.num_computed = 0

    def has_room(self, work: Sequence[Work]) -> bool:
        """See to it, if nobody is to be parked for it, that a pass can store its tokens; whether it
        can."""
        return True

    def cut_all(self, continuations: Sequence[Continuation]) -> None:
        """`cut`, of several at once."""
        if self.cache is None:
            return
        lengths = list(self.cache.lengths)
        for continuation in continuations:
            if continuation.slot is not None:
                lengths[continuation.slot] = continuation.num_computed
        self.cache.truncate(lengths)

    def cut(self, continuation: Continuation) -> None:
        """Have its slot keep its first `num_computed` tokens; fewer tokens stay as they are."""
        if self.cache is not None and continuation.slot is not None:
            self._cut(continuation.slot, continuation.num_computed)

    def restart(self, requests: Iterable[Request]) -> None:
        """After an exception in a step: take all slots away, and keep what keys can be found again.

        requests: the unfinished ones, whose slots hold at least what `num_computed` says.
        """
        for request in requests:
            for continuation in request.group.members:
                if continuation.slot is not None and self.cache is not None:
                    held = self.cache.lengths[continuation.slot]
                    continuation.num_computed = min(continuation.num_computed, held)
            self.park(request)
        for slot, continuation in list(self._in.items()):
            continuation.slot = None
            self._cut(slot, 0)
        for slot in range(self.num_slots):  # of which some were about to be left, or taken
            self._attend_nothing(slot)
        self._in.clear()
        self._free = list(range(self.num_slots))

    def _seat(self, continuation: Continuation, length: int) -> None:
        slot = self._free[0]
        self._cut(slot, length)
        self._settle(continuation, slot)
        heapify(self._free)

    def _settle(self, continuation: Continuation, slot: int) -> None:
        self._in[slot] = continuation
        continuation.slot = slot
        self._free.remove(slot)

    def _vacate(self, continuation: Continuation) -> None:
        slot = continuation.slot
        assert slot is not None
        continuation.slot = None
        self._attend_nothing(slot)
        del self._in[slot]
        heappush(self._free, slot)

    def _attend_nothing(self, slot: int) -> None:
        """Leave no encoder input to whoever comes to a slot and has yet to have its own read."""
        if self.cache is not None and self.cache.cross.shapes:
            self.cache.attend(slot, None)

    def _cut(self, slot: int, length: int) -> None:
        if self.cache is not None:
            self.cache.truncate_slot(slot, length)

    def _bytes_of(self, continuation: Continuation) -> int:
        return 0 if self.cache is None else self.cache.num_bytes // self.cache.num_slots
