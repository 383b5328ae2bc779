"""A fixed number of blocks, each held by whoever has a reference to it, or free.

Python counts the references: to share a block is to put the same object in two tables. What notes
that the last one has gone is a method of a deque, in C, so that no exception comes in between:

    Block 3 dies -> its ticket goes into the deque -> the next `take` frees number 3

A number is taken when a ticket of it is noted and its block alive. That is the truth; the heaps of
free numbers only make it quick to look up, and are made anew after an exception within `take`.

The bytes of a block are reserved of a budget, which several pools may have together, when it is
first taken, and stay so while it is free, as its memory does, until `idle` hands that back.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count, groupby
from typing import Any, Self

from kept.blocks.budget import Budget
from kept.errors import CacheFullError

BLOCK = 64  # tokens of a block: a tile of the kernels


def blocks_of(num_tokens: int) -> int:
    """How many blocks so many tokens lie in."""
    return -(-num_tokens // BLOCK)


class Block:
    """A block, by its number `id` in a pool, which it returns to with the last reference to it.

    frozen: so many of its first tokens are never written again, as somebody else may read them.
    """

    __slots__ = ("__weakref__", "frozen", "id")

    def __init__(self, id: int) -> None:
        self.id, self.frozen = id, 0

    def freeze(self, num_tokens: int) -> None:
        """Keep its first tokens from being written again."""
        if num_tokens > self.frozen:
            self.frozen = num_tokens

    def __repr__(self) -> str:
        return f"<Block {self.id}>"


class _Ticket(weakref.ref[Block]):
    """What is left of a block that has gone: its number."""

    __slots__ = ("id",)
    id: int

    def __new__(cls, block: Block, then: Callable[[Any], object]) -> Self:
        # Whoever holds the ticket before its number is noted goes before the block does.
        found = super().__new__(cls, block, then)
        found.id = block.id
        return found


class BlockPool:
    """The blocks 0 to `num_blocks`, of which some are held and the others free.

    block_bytes: of each, which count against the budget. Safe to use from several threads; blocks
    may be let go anywhere, at any moment.
    """

    def __init__(self, num_blocks: int, block_bytes: int = 1, budget: Budget | None = None) -> None:
        """budget: None: of this pool's own, all of its blocks."""
        self.num_blocks, self.block_bytes = num_blocks, block_bytes
        self._tickets: dict[int, _Ticket] = {}  # of the blocks that are held
        self._let_go: deque[_Ticket] = deque()
        self._untaken = 0  # numbers from here on were never taken
        self._free: list[int] = []  # a heap of those before
        self._returned: list[int] = []  # another, of those without memory
        self.num_promised = 0  # blocks in all that have memory, taken or not
        self._interrupted = False
        self.budget = budget or Budget(num_blocks * block_bytes)
        self._reserved, self._lock = self.budget.reserve(), self.budget.lock

    def draw_on(self, budget: Budget) -> None:
        """Take the memory of blocks out of another budget. To be called before any is taken."""
        assert not self._untaken, "a pool has its budget before its blocks"
        self.budget, self._reserved, self._lock = budget, budget.reserve(), budget.lock

    @property
    def num_used(self) -> int:
        """How many blocks somebody holds."""
        with self._lock:
            self._settle()
            return len(self._tickets)

    @property
    def taken_ids(self) -> list[int]:
        """The numbers of the blocks that somebody holds."""
        with self._lock:
            self._settle()
            return list(self._tickets)

    @property
    def num_seen(self) -> int:
        """How many numbers have ever been taken: those from 0 on."""
        return self._untaken

    @property
    def num_free(self) -> int:
        """How many blocks may be taken: of those that nobody holds, as many as have memory or the
        budget has bytes for."""
        with self._lock:
            used, more = self.num_used, max(0, self.budget.free) // self.block_bytes
            return min(self.num_blocks - used, self.num_reserved - used + more)

    @property
    def num_reserved(self) -> int:
        """How many blocks it has memory for, whether they are held, promised or neither."""
        return self._reserved.num_bytes // self.block_bytes

    @property
    def num_idle(self) -> int:
        """How many blocks it has memory for that nobody holds or was promised."""
        with self._lock:
            return self.num_reserved - max(self.num_used, self.num_promised)

    def promise(self, num_blocks: int) -> None:
        """Have memory for so many blocks in all, whether they are taken yet or not.

        Raises CacheFullError, changing nothing, where the budget has no room.
        """
        with self._lock:
            self._settle()
            before, self.num_promised = self.num_promised, num_blocks
            try:
                self._count_memory()
            except CacheFullError:
                self.num_promised = before
                raise

    def take(self, count: int) -> list[Block]:
        """So many free blocks, those of the lowest numbers, which keeps memory compact.

        Raises CacheFullError, taking none, where there are fewer, or the budget has no room.
        """
        with self._lock:
            self._settle()
            free = self.num_blocks - len(self._tickets)
            if count > free:
                raise CacheFullError(
                    f"{count:,} more blocks of {BLOCK} tokens are needed, and {free:,} of "
                    f"{self.num_blocks:,} are free; let go of other sequences, or give the cache "
                    "more bytes"
                )
            self._interrupted = True
            self._cover(count)
            found = [self._taken() for _ in range(count)]
            self._interrupted = False
            return found

    @contextmanager
    def idle(self) -> Iterator[list[range]]:
        """The free blocks that were held before, as runs of numbers, for who hands their memory
        back; nobody can take one before this ends."""
        with self._lock:
            self._settle()
            free = sorted(self._free + self._returned)
            found = []
            for _, pairs in groupby(zip(free, count(), strict=False), lambda x: x[0] - x[1]):
                ids = [id for id, _ in pairs]
                found.append(range(ids[0], ids[-1] + 1))
            yield found
            self._interrupted = True
            self._returned, self._free = free, []
            self._count_memory()
            self._interrupted = False

    def _cover(self, count: int) -> None:
        """Reserve the memory of so many blocks, as far as free ones have none."""
        new = count - len(self._free)
        if new <= 0:
            return
        try:
            self._hold(max(self._num_with_memory + new, self.num_promised))
        except CacheFullError:
            self._interrupted = False
            raise

    def _count_memory(self) -> None:
        self._hold(max(self._num_with_memory, self.num_promised))

    def _hold(self, num_blocks: int) -> None:
        self._reserved.change(num_blocks * self.block_bytes)

    @property
    def _num_with_memory(self) -> int:
        return self._untaken - len(self._returned)

    def _taken(self) -> Block:
        free = self._free or self._returned
        if not free:
            self._untaken += 1
        block = Block(heappop(free) if free else self._untaken - 1)
        self._tickets[block.id] = _Ticket(block, self._let_go.append)
        return block

    def _settle(self) -> None:
        """Bring the free numbers up to date."""
        if self._interrupted:
            for id, ticket in list(self._tickets.items()):
                if ticket() is None:
                    del self._tickets[id]
            self._returned = [id for id in self._returned if id not in self._tickets]
            others = {*self._tickets, *self._returned}
            self._free = [id for id in range(self._untaken) if id not in others]
            heapify(self._returned)
            heapify(self._free)
            self._count_memory()
            self._interrupted = False
        while self._let_go:
            self._interrupted = True
            ticket = self._let_go.popleft()
            if self._tickets.get(ticket.id) is ticket:  # else its number is free already
                del self._tickets[ticket.id]
                heappush(self._free, ticket.id)
            self._interrupted = False
