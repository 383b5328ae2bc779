"""Where an engine's blocks come from: free ones, texts that have ended, and other engines.

All in bytes, over all groups of layers of the cache, whose blocks have sizes of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kept.blocks import Match, Stack
from kept.cache import Cache
from kept.engine.counters import Counters
from kept.engine.known import Known
from kept.engine.room import Lender, Room


class Supply:
    """The blocks of one cache, as they come out of a room and go back there.

    known: what holds those of texts that have ended, None: nothing does. owner: who answers for
    them in the room. most: bytes of blocks that the cache can ever have.
    """

    def __init__(
        self, cache: Cache, known: Known | None, room: Room, owner: Lender, counters: Counters
    ) -> None:
        self._cache, self._pools, self._known = cache, cache.pools, known
        self._room, self._owner, self._counters = room, owner, counters
        limits = [self._pools[0].budget.limit, room.limit]
        self.most = min(limit for limit in limits if limit is not None)
        if room.limit is not None:
            for pool in self._pools:
                pool.draw_on(room.budget)
        self._budget = self._pools[0].budget

    @property
    def num_used(self) -> int:
        """Bytes of blocks that somebody holds."""
        return sum(pool.num_used * pool.block_bytes for pool in self._pools)

    @property
    def num_free(self) -> int:
        """Bytes that may be taken: of blocks that have memory and nobody holds, and of the
        budget."""
        used = self.num_used
        reserved = sum(pool.num_reserved * pool.block_bytes for pool in self._pools)
        return min(self.most - used, reserved - used + max(0, self._budget.free))

    @property
    def num_findable(self) -> int:
        """Bytes that are held for texts that have ended alone."""
        return 0 if self._known is None else self._known.num_bytes()

    def num_obtainable(self, matches: Iterable[Match[Stack]] = ()) -> int:
        """Bytes that are to be had, besides what running texts of other engines need. matches: what
        is to stay of texts that have ended."""
        findable, stays = self.num_findable, 0
        if self._known is not None:
            stays = findable - self._known.num_bytes(matches)
        taken = sum(max(x.num_used, x.num_promised) * x.block_bytes for x in self._pools)
        here = self.most - taken + findable
        return min(here, self._room.spare(self._owner)) - stays

    @property
    def others_run(self) -> bool:
        """Whether texts of other engines run, which let go of theirs in the end."""
        first = self._room.who_goes_first(self._owner)
        return first is not None and first.is_running

    def evict_for(self, num_bytes: int) -> bool:
        """Have so many bytes free, at the cost of texts that have ended; whether there are."""
        return self._room.make(lambda: num_bytes - self.num_free, self._owner)

    def promise(self, counts: Sequence[int]) -> None:
        """Have memory for so many blocks of each group in all from now on, as far as it is
        obtainable."""
        pools = list(zip(self._pools, counts, strict=True))

        def lacking() -> int:
            more = sum(max(0, count - x.num_reserved) * x.block_bytes for x, count in pools)
            return more - max(0, self._budget.free)

        for pool, count in pools:
            if count < pool.num_promised:
                pool.promise(count)
        self._room.make(lacking, self._owner)
        for pool, count in pools:
            pool.promise(count)

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        return self.num_findable + self._num_idle

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        if self._returns_idle(to_itself):
            return 0.0  # memory that nothing lies in goes first
        return None if self._known is None else self._known.oldest

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""
        if not self._returns_idle(to_itself):
            assert self._known is not None
            least = self.num_used - num_bytes
            while self.num_used > least and self._known.evict(until):
                self._counters.evicted_blocks += 1
        if not to_itself or self._known is None:
            self._cache.release()

    def _returns_idle(self, to_itself: bool) -> bool:
        """Whether memory that nothing lies in is what goes first. A cache has it anyway for more
        blocks, but where texts share nothing: it reserves these by group, and reads inputs."""
        return self._num_idle > 0 and (not to_itself or self._known is None)

    @property
    def _num_idle(self) -> int:
        """Bytes of blocks that have memory, which nobody holds or was promised."""
        return sum(pool.num_idle * pool.block_bytes for pool in self._pools)
