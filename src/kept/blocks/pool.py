"""A fixed number of blocks, each held by whoever has a reference to it, or free.

Python counts the references: to share a block is to put the same object in two tables. What notes
that the last one has gone is a method of a deque, in C, so that no exception comes in between:

    Block 3 dies -> its ticket goes into the deque -> the next `take` frees number 3

A number is taken when a ticket of it is noted and its block alive. That is the truth; the heap of
free numbers only makes it quick to look up, and is made anew after an exception within `take`.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count, groupby
from typing import Any, Self

from kept.errors import CacheFullError

BLOCK = 64  # tokens of a block: a tile of the kernels


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


class Budget:
    """Bytes that the blocks of several pools may take together, each pool's of a size of its
    own."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._pools: list[weakref.ref[BlockPool]] = []
        self.lock = threading.RLock()  # which a thread that was interrupted can enter again

    @property
    def num_used(self) -> int:
        """Bytes of the blocks that somebody holds."""
        with self.lock:
            pools = [found() for found in self._pools]
            return sum(pool.num_used * pool.block_bytes for pool in pools if pool is not None)

    @property
    def num_free(self) -> int:
        """Bytes of the blocks that may still be taken."""
        return self.num_bytes - self.num_used

    def add(self, pool: BlockPool) -> None:
        """Let it be for one more pool, for as long as there is one."""
        self._pools.append(weakref.ref(pool))


class BlockPool:
    """The blocks 0 to `num_blocks`, of which some are held and the others free.

    block_bytes: of each, which count against the budget. Safe to use from several threads; blocks
    may be let go anywhere, at any moment.
    """

    def __init__(self, num_blocks: int, block_bytes: int = 1, budget: Budget | None = None) -> None:
        """budget: None: of this pool's own, all of its blocks."""
        self.num_blocks, self.block_bytes = num_blocks, block_bytes
        self.budget = budget or Budget(num_blocks * block_bytes)
        self.budget.add(self)
        self._tickets: dict[int, _Ticket] = {}  # of the blocks that are held
        self._let_go: deque[_Ticket] = deque()
        self._untaken = 0  # numbers from here on were never taken
        self._free: list[int] = []  # a heap of those before
        self._given_back = 0  # of these, at least so many have no memory
        self._interrupted = False
        self._lock = self.budget.lock

    @property
    def num_used(self) -> int:
        """How many blocks somebody holds."""
        with self._lock:
            self._settle()
            return len(self._tickets)

    @property
    def num_free(self) -> int:
        """How many blocks may be taken."""
        with self._lock:
            free = self.num_blocks - self.num_used
            return min(free, max(0, self.budget.num_free) // self.block_bytes)

    @property
    def num_resident(self) -> int:
        """How many blocks memory may lie behind: those that are held or were, since free ones were
        last given back."""
        return self._untaken - self._given_back

    def take(self, count: int) -> list[Block]:
        """So many free blocks, those of the lowest numbers, which keeps memory compact.

        Raises CacheFullError, taking none, where there are fewer.
        """
        with self._lock:
            self._settle()
            free = self.num_free
            if count > free:
                raise CacheFullError(
                    f"{count:,} more blocks of {BLOCK} tokens are needed, and {free:,} of "
                    f"{self.num_blocks:,} are free; let go of other sequences, or give the cache "
                    "more bytes"
                )
            self._interrupted = True
            self._given_back = max(0, self._given_back - count)
            found = [self._taken() for _ in range(count)]
            self._interrupted = False
            return found

    @contextmanager
    def idle(self) -> Iterator[list[range]]:
        """The free blocks that were held before, as runs of numbers, whose memory is to be given
        back; nobody can take one before this ends."""
        with self._lock:
            self._settle()
            runs = groupby(zip(sorted(self._free), count(), strict=False), lambda x: x[0] - x[1])
            found = []
            for _, pairs in runs:
                ids = [id for id, _ in pairs]
                found.append(range(ids[0], ids[-1] + 1))
            yield found
            self._given_back = len(self._free)

    def _taken(self) -> Block:
        if not self._free:
            self._untaken += 1
        block = Block(heappop(self._free) if self._free else self._untaken - 1)
        self._tickets[block.id] = _Ticket(block, self._let_go.append)
        return block

    def _settle(self) -> None:
        """Bring the free numbers up to date."""
        if self._interrupted:
            for id, ticket in list(self._tickets.items()):
                if ticket() is None:
                    del self._tickets[id]
            self._free = [id for id in range(self._untaken) if id not in self._tickets]
            heapify(self._free)
            self._interrupted = False
        while self._let_go:
            self._interrupted = True
            ticket = self._let_go.popleft()
            if self._tickets.get(ticket.id) is ticket:  # else its number is free already
                del self._tickets[ticket.id]
                heappush(self._free, ticket.id)
            self._interrupted = False
