"""Sequences that each have a slot of a cache to themselves, which is there while they need it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from kept.blocks import Reservation
from kept.engine.continuation import Continuation
from kept.engine.needs import longest_text
from kept.engine.request import Request
from kept.engine.residents import Residents
from kept.engine.room import Lender, Room
from kept.engine.slot_caches import Held, SlotCaches
from kept.engine.window import ContextRule
from kept.errors import CacheFullError
from kept.format import format_bytes


class SlottedResidents(Residents):
    """Residents of a cache that is made when somebody comes, gets more slots as more come, and may
    go when nobody is left.

    A request starts once there is room for the longest text it may come to, in all of its slots.
    """

    def __init__(
        self, caches: SlotCaches, num_slots: int, rule: ContextRule, room: Room, owner: Lender
    ) -> None:
        super().__init__(None, 0)
        self._caches, self._most_slots = caches, num_slots
        self._rule, self._room, self._owner = rule, room, owner
        self._held: Held | None = None
        self._num_holds = 0
        self._num_expected, self._last_use = 0, time.monotonic()
        self._last: Continuation | None = None  # who left last, until anybody comes
        if caches.first is not None:
            self._hold(caches.first)

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        return 0 if self._in or self._held is None else self._held.reserved.num_bytes

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        if to_itself or self._in or self._held is None:
            return None
        return self._last_use

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`: the whole cache goes."""
        self.forget()

    def forget(self) -> None:
        """See `Residents.forget`."""
        if not self._in:
            self._hold(None)

    def hand_over(self, continuation: Continuation) -> Held | None:
        """See `Residents.hand_over`: the only slot, if nobody has come there since."""
        held = self._held
        if continuation is not self._last or held is None or self.num_slots != 1:
            return None
        self._hold(None)
        return held

    def expect(self, num_requests: int) -> None:
        """See `Residents.expect`."""
        self._num_expected = num_requests

    def needed_bytes(self, request: Request) -> int:
        """See `Residents.needed_bytes`."""
        return self._caches.num_bytes(request.width, longest_text(request, self._rule))

    def check(self, request: Request, beside: int = 0) -> None:
        """See `Residents.check`."""
        longest, limit = longest_text(request, self._rule), self._room.limit
        needed = self.needed_bytes(request) + beside
        if limit is not None and needed > limit:
            raise CacheFullError(
                f"a request of {request.width} sequences of up to {longest:,} tokens may come to "
                f"need {format_bytes(needed)} of keys and values, and all texts together have "
                f"{format_bytes(limit)}; ask for fewer tokens or texts, or give more memory "
                "(kv_memory)"
            )

    def start(self, request: Request, running: Sequence[Request], beside: int = 0) -> bool:
        """See `Residents.start`."""
        num_slots = request.width + sum(other.width for other in running)
        longest = longest_text(request, self._rule)
        before = self._num_holds  # no cache itself, which could not go while it is named here
        try:
            is_had = self._have(num_slots, longest)
        except (CacheFullError, MemoryError) as error:  # of the machine, whatever the room says
            self.failed[request], is_had = error, False
        if not is_had:
            self._room.claim(self._owner, request, self.needed_bytes(request) + beside)
            return False
        if self._num_holds != before and not running:
            for continuation in request.live:  # what it was to go on from has gone
                continuation.num_computed = 0
                continuation.usage.cached.clear()
        return super().start(request, running)

    def restart(self, requests: Iterable[Request]) -> None:
        """See `Residents.restart`."""
        self._hold(self._held)
        super().restart(requests)

    def leave(self, request: Request, gone: Iterable[Continuation]) -> None:
        """See `Residents.leave`."""
        super().leave(request, gone)
        self._last_use = time.monotonic()

    def _settle(self, continuation: Continuation, slot: int) -> None:
        self._last = None
        super()._settle(continuation, slot)

    def _vacate(self, continuation: Continuation) -> None:
        super()._vacate(continuation)
        self._last = continuation

    def _have(self, num_slots: int, longest: int) -> bool:
        """Have a cache of so many slots for so many tokens, if there is room for one."""
        if self.num_slots >= num_slots and self._reaches(longest):
            return True
        if not self._in:
            self._hold(None)
        longest = longest if self._held is None else max(longest, self._held.longest)
        wanted = max(num_slots, len(self._in) + self._num_expected, 2 * self.num_slots)
        for count in dict.fromkeys((min(wanted, self._most_slots), num_slots)):
            reserved = self._reserve(self._caches.num_bytes(count, longest))
            if reserved is not None:
                self._widen(count, reserved, longest)
                return True
        return False

    def _reaches(self, longest: int) -> bool:
        """Have room for so long sequences in the slots that there are."""
        held = self._held
        if held is None:
            return False
        if held.longest >= longest:
            return True
        needed = self._caches.num_bytes(held.cache.num_slots, longest)
        more = needed - held.reserved.num_bytes
        if not self._make_room(more):
            return False
        held.reserved.change(max(needed, held.reserved.num_bytes))
        held.longest = longest
        return True

    def _reserve(self, num_bytes: int) -> Reservation | None:
        return self._room.budget.reserve(num_bytes) if self._make_room(num_bytes) else None

    def _make_room(self, num_bytes: int) -> bool:
        budget = self._room.budget
        if num_bytes > self._room.spare(self._owner):
            return False
        return self._room.make(lambda: num_bytes - budget.free, self._owner)

    def _widen(self, num_slots: int, reserved: Reservation, longest: int) -> None:
        """Have a cache of so many slots; those who have one stay where they are."""
        held = self._held
        if held is None or not any(held.cache.lengths):
            cache = self._caches.make(num_slots)
        else:
            cache = held.cache.fork()
            cache.select([i if i < self.num_slots else 0 for i in range(num_slots)])
            for slot in range(self.num_slots, num_slots):
                cache.truncate_slot(slot, 0)
                if cache.cross.shapes:
                    cache.attend(slot, None)
        self._hold(Held(cache, reserved, longest))

    def _hold(self, held: Held | None) -> None:
        self._held = held
        self._num_holds += 1
        self.cache = None if held is None else held.cache
        self.num_slots = 0 if held is None else held.cache.num_slots
        self._free = [slot for slot in range(self.num_slots) if slot not in self._in]
