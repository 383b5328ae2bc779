"""Where an engine's blocks come from: free ones, texts that have ended, and other engines."""

from __future__ import annotations

from kept.blocks import Block, BlockPool, PrefixTree
from kept.cache import Cache
from kept.engine.counters import Counters
from kept.engine.room import Lender, Room


class Supply:
    """The blocks of one pool, as they come out of a room and go back there.

    tree: what holds those of texts that have ended, None: nothing does. owner: who answers for them
    in the room.
    """

    def __init__(
        self,
        cache: Cache,
        pool: BlockPool,
        tree: PrefixTree[Block] | None,
        room: Room,
        owner: Lender,
        counters: Counters,
    ) -> None:
        self._cache, self._pool, self._tree = cache, pool, tree
        self._room, self._owner, self._counters = room, owner, counters
        if room.limit is not None:
            pool.draw_on(room.budget, cache.block_bytes)

    @property
    def num_findable(self) -> int:
        """Blocks that are held for texts that have ended alone."""
        return 0 if self._tree is None else self._tree.num_evictable

    @property
    def num_obtainable(self) -> int:
        """Blocks that are to be had, besides what running texts of other engines need."""
        pool = self._pool
        here = pool.num_blocks - max(pool.num_used, pool.num_promised) + self.num_findable
        return min(here, self._room.spare(self._owner) // self._cache.block_bytes)

    @property
    def others_run(self) -> bool:
        """Whether texts of other engines run, which let go of theirs in the end."""
        return any(lender.is_running for lender in self._room.others_first(self._owner))

    def evict_for(self, count: int) -> bool:
        """Have so many blocks free, at the cost of texts that have ended; whether there are."""
        each = self._cache.block_bytes
        return self._room.make(lambda: (count - self._pool.num_free) * each, self._owner)

    def promise(self, count: int) -> None:
        """Have memory for so many blocks in all from now on, as far as it is obtainable."""
        pool, each = self._pool, self._cache.block_bytes
        self._room.make(lambda: (count - pool.num_used - pool.num_free) * each, self._owner)
        pool.promise(count)

    @property
    def returnable(self) -> int:
        """See `Lender.returnable`."""
        return (self.num_findable + self._pool.num_idle) * self._cache.block_bytes

    def oldest(self, to_itself: bool) -> float | None:
        """See `Lender.oldest`."""
        if self._pool.num_idle and not to_itself:
            return 0.0  # memory that nothing lies in goes first
        return None if self._tree is None else self._tree.oldest

    def give_back(self, num_bytes: int, until: float, to_itself: bool) -> None:
        """See `Lender.give_back`."""
        if to_itself or not self._pool.num_idle:
            assert self._tree is not None
            count = -(-num_bytes // self._cache.block_bytes)
            self._counters.evicted_blocks += self._tree.evict(count, until)
        if not to_itself:
            self._cache.release()
