"""Tokens in blocks of 64, of which each slot has a table.

    slot 0, 150 tokens     blocks 4 0 7      token 140 is entry 12 of block 7
    slot 1, 130 tokens     blocks 4 0 2      the first 128 tokens are the same as those of slot 0

Where layers attend a window, blocks before it are let go (`window_blocks.py` says when), and leave
a hole, so that token i belongs to block i // 64 of a table ever after. The blocks of sinks stay:

    slot 2, 330 tokens, window 100     blocks . . 3 8 1 6
    slot 3, the same, with 4 sinks     blocks 5 . 9 6 2 7

Who shares a block with somebody else freezes the tokens that both have: they are never written
again, not even when the other has gone. Behind them one of its holders may go on, and keeps that
right to itself (`Table.appends`); the others copy a block that is not full before they write to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from itertools import chain
from operator import is_

import numpy as np
import torch
from numpy.typing import NDArray

from kept.blocks import BLOCK, blocks_of
from kept.cache.block_memory import BlockMemory
from kept.cache.block_table import Table, rows_in_blocks, side_by_side
from kept.cache.layout import Copies, Copy, Layout, Plan, Writes, lengths_after
from kept.cache.window_blocks import first_needed, passed_blocks
from kept.errors import CacheError
from kept.ops import Placement, Span

AHEAD = BLOCK  # tokens more that a lease takes room for, where there is less than enough
ENOUGH = 16  # taking another lease costs a step that much more seldom, then


class BlockLayout(Layout):
    """A table of blocks for each slot. A block that nobody's table holds any more is free.

    memory: where the blocks lie. tables: (slots,). window: how many of the last tokens a query
    sees; None: all, and nothing is let go. sinks: how many of the first it sees besides.
    """

    def __init__(
        self,
        memory: BlockMemory,
        tables: Sequence[Table],
        window: int | None = None,
        sinks: int = 0,
    ) -> None:
        super().__init__(len(tables), BLOCK)
        self.memory, self.tables, self.window, self.sinks = memory, tuple(tables), window, sinks
        self._joined: tuple[tuple[int, ...], NDArray[np.int32]] | None = None
        self._held_ids: frozenset[int] | None = None

    def filled(self, lengths: Sequence[int], gone: Sequence[range] | None = None) -> BlockLayout:
        """One like it, of slots with blocks for so many tokens each. gone: tokens of blocks that
        each does without, None: none. Raises CacheFullError where there are fewer blocks."""
        wanted = [
            [index * BLOCK not in without for index in range(blocks_of(length))]
            for length, without in zip(lengths, gone or [range(0)] * len(lengths), strict=True)
        ]
        new = iter(self.memory.take(sum(map(sum, wanted))))
        tables = [Table.of([next(new) if held else None for held in of], True) for of in wanted]
        return self._with(tables)

    def _with(self, tables: Sequence[Table]) -> BlockLayout:
        """With these tables; itself where they are the same."""
        if len(tables) == self.num_slots and all(map(is_, tables, self.tables)):
            return self
        twin = copy(self)
        twin.tables, twin.num_slots = tuple(tables), len(tables)
        twin._joined = twin._held_ids = None
        return twin

    @property
    def num_blocks(self) -> int:
        """Blocks in the tables, each counted once."""
        return len(self.held_ids)

    @property
    def held_ids(self) -> frozenset[int]:
        """The numbers of the blocks in the tables."""
        if self._held_ids is None:
            self._held_ids = frozenset(chain.from_iterable(table.held for table in self.tables))
        return self._held_ids

    @property
    def traits(self) -> dict[str, object]:
        """See `Layout.traits`: where nothing is let go, tokens are treated as they are in one run
        each."""
        if self.window is None:
            return {"layout": "contiguous", "max_length": None}
        return {"layout": "blocks", "window": self.window, "sinks": self.sinks}

    @property
    def placement(self) -> Placement:
        """See `Layout.placement`."""
        return Placement(BLOCK, self.sinks, self.window)

    @property
    def gone(self) -> list[range]:
        """(slots,) which tokens of each slot have been let go."""
        return [table.gone for table in self.tables]

    def used(self, lengths: Sequence[int]) -> list[int]:
        """See `Layout.used`."""
        return [BLOCK * (id in self.held_ids) for id in range(max(self.held_ids, default=-1) + 1)]

    def reserve(self, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Nothing grows; `plan` takes the blocks."""

    def relaid(self, capacity: int) -> BlockLayout:
        """Blocks keep their size."""
        return self

    def check_room(self, num_slots: int, count: int) -> None:
        """See `Layout.check_room`."""
        needed = num_slots * blocks_of(count)
        if needed > self.memory.pool.num_free:
            self.memory.take(needed)  # raises

    def extended(
        self, slots: Sequence[int], begins: Sequence[int] | None, ends: Sequence[int]
    ) -> tuple[BlockLayout, Copies]:
        """With room for tokens from `begins` to `ends` of some slots, None: from the first on; and
        the blocks that are to be copied before these are written.

        Raises CacheFullError, changing nothing, where there are too few blocks.
        """
        changes: list[tuple[int, int, int | None, int]] = []
        for slot, begin, end in zip(slots, begins or [0] * len(ends), ends, strict=True):
            table = self.tables[slot]
            copied = None if begin == end or table.takes(begin) else begin // BLOCK
            assert copied is None or table.blocks[copied] is not None, "a step goes on in a block"
            missing = blocks_of(end) - len(table.blocks)
            if copied is not None or missing > 0:
                changes.append((slot, begin, copied, max(missing, 0)))
        if not changes:
            return self, ()
        count = sum(missing + (copied is not None) for _, _, copied, missing in changes)
        new, tables, copies = iter(self.memory.take(count)), list(self.tables), []
        for slot, begin, copied, missing in changes:
            blocks = list(tables[slot].blocks)
            if copied is not None:
                block = next(new)
                copies.append(Copy(int(tables[slot].ids[copied]), block.id, begin % BLOCK))
                blocks[copied] = block
            blocks += (next(new) for _ in range(missing))
            tables[slot] = Table.of(blocks, True)
        return self._with(tables), copies

    def copy_blocks(self, copies: Copies) -> None:
        """See `Layout.copy_blocks`."""
        if copies:
            self.memory.copy_blocks(copies)

    def plan(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> Plan:
        """See `Layout.plan`; raises CacheFullError where there are too few blocks."""
        after, copies = self.extended(slots, lengths, lengths_after(starts, lengths))
        span, writes = after._placed(starts, slots, lengths, device)
        return Plan(span, writes, after=after, copies=copies)

    def planned(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> Plan:
        """See `Layout.planned`."""
        return Plan(*self._placed(starts, slots, lengths, device))

    def _placed(
        self,
        starts: tuple[int, ...],
        slots: tuple[int, ...],
        lengths: Sequence[int],
        device: torch.device,
    ) -> tuple[Span, Writes]:
        after = lengths_after(starts, lengths)
        table = self.table_of(slots)
        span = Span(
            starts,
            slots,
            after,
            max(after),
            device,
            window=self.window,
            sinks=self.sinks,
            blocks=table,
        )

        begin, end = divmod(lengths[0], BLOCK), after[0]
        if len(slots) == 1 and begin[1] + starts[-1] <= BLOCK and end > lengths[0]:
            return span, Writes((int(table[0, begin[0]]), 1, begin[1], starts[-1]))
        return span, Writes(None, partial(rows_in_blocks, table, starts, lengths, device))

    def table_of(self, slots: tuple[int, ...]) -> NDArray[np.int32]:
        """(B, n) the blocks of some slots, shorter ones filled up with block 0."""
        if self._joined is None or self._joined[0] != slots:
            self._joined = slots, side_by_side([self.tables[slot] for slot in slots])
        return self._joined[1]

    def ahead(
        self, slots: Sequence[int], lengths: Sequence[int], count: int
    ) -> tuple[BlockLayout, Copies]:
        """See `Layout.ahead`."""
        pairs = list(zip(slots, lengths, strict=True))
        held = [len(self.tables[slot].blocks) * BLOCK - length for slot, length in pairs]
        ends = [
            length + (1 if left >= ENOUGH else count)
            for length, left in zip(lengths, held, strict=True)
        ]
        return self.extended(slots, lengths, ends)

    def room(self, slots: Sequence[int], lengths: Sequence[int]) -> int:
        """See `Layout.room`."""
        tables = [self.tables[slot] for slot in slots]
        pairs = list(zip(tables, lengths, strict=True))
        if not all(table.takes(length) for table, length in pairs):
            return 0
        return min(len(table.blocks) * BLOCK - length for table, length in pairs)

    def let_go(self, slots: Sequence[int], lengths: Sequence[int]) -> BlockLayout:
        """See `Layout.let_go`."""
        if self.window is None:
            return self
        tables = list(self.tables)
        for slot, length in zip(slots, lengths, strict=True):
            tables[slot] = tables[slot].without(passed_blocks(self.window, length, self.sinks))
        return self._with(tables)

    def check_truncate(self, slot: int, length: int, before: int) -> None:
        """See `Layout.check_truncate`."""
        gone = self.tables[slot].gone
        if max(gone.start, first_needed(self.window, length)) < min(gone.stop, length):
            raise CacheError(
                f"this {before:,} token long sequence cannot go back to {length:,}: layers that "
                f"attend the last {self.window:,} tokens have let go of tokens {gone.start:,} to "
                f"{gone.stop:,}; truncate by less, or to {gone.start:,}, or make a dynamic cache "
                "with keeps_all=True"
            )

    def truncated(self, cuts: Sequence[tuple[int, int]]) -> BlockLayout:
        """See `Layout.truncated`."""
        tables = list(self.tables)
        for slot, length in cuts:
            tables[slot] = tables[slot].first(length)
        return self._with(tables)

    def selected(self, indices: Sequence[int], lengths: Sequence[int]) -> BlockLayout:
        """See `Layout.selected`. Of slots that become the same one may go on as it is."""
        tables, seen = [], set[int]()
        for slot in indices:
            table = self.tables[slot]
            tables.append(table.shared(lengths[slot]) if slot in seen else table)
            seen.add(slot)
        return self._with(tables)

    def with_table(self, slot: int, table: Table) -> BlockLayout:
        """With another table of one slot."""
        return self._with((*self.tables[:slot], table, *self.tables[slot + 1 :]))

    def fork(self, lengths: Sequence[int]) -> BlockLayout:
        """See `Layout.fork`; this one may go on in blocks that are not full, the copy may not."""
        return self._with([x.shared(n) for x, n in zip(self.tables, lengths, strict=True)])

    def joined(self, other: Layout) -> BlockLayout:
        """See `Layout.joined`."""
        assert isinstance(other, BlockLayout)
        return self._with(self.tables + other.tables)

    def entries_from(self, slot: int, begin: int, end: int) -> list[int]:
        """See `Layout.entries_from`: entry e of block b is number 64 b + e."""
        table, tokens = self.tables[slot], np.arange(begin, end)
        tokens = tokens[(tokens < table.gone.start) | (tokens >= table.gone.stop)]
        ids = table.ids.astype(np.int64)
        found: list[int] = (ids[tokens // BLOCK] * BLOCK + tokens % BLOCK).tolist()
        return found

    def entries(self, slot: int, begin: int, end: int) -> list[int]:
        """See `Layout.entries`; raises CacheError if one of the tokens is gone."""
        gone = self.tables[slot].gone
        if max(begin, gone.start) < min(gone.stop, end):
            raise CacheError(
                f"this cache no longer holds tokens {gone.start} to {gone.stop} in layers that "
                f"attend the last {self.window} tokens; ask for later ones, or make a dynamic "
                "cache with keeps_all=True"
            )
        return self.entries_from(slot, begin, end)
