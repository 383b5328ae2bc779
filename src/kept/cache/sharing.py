"""Blocks of tokens that go from one slot to another, or to whoever keeps them in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kept.blocks import BLOCK, Block, Stack, blocks_of
from kept.cache.block_layout import BlockLayout
from kept.cache.block_memory import BlockMemory
from kept.cache.block_table import Table
from kept.cache.indices import read_whole
from kept.cache.moving import Movable
from kept.cache.window_blocks import first_needed, passed_blocks
from kept.errors import CacheError, OptionError


class Sharing(Movable):
    """The side of a `Cache` that hands out the blocks its tokens lie in, and takes others in.

    A block stays what it is for as long as anybody holds it.
    """

    def share(self, slot: int) -> tuple[Stack, ...]:
        """The blocks that hold a slot's tokens, 64 after 64, the last of which may be part full.

        These tokens are never written again; what the slot comes to hold behind them may go into
        the last blocks. Layers with a window have none for what they have let go. Raises CacheError
        for a cache that does not lie in blocks (`pools`), or no slot of it.
        """
        slot, layouts = self._read_slot(slot), self._in_blocks()
        length = self.lengths[slot]
        tables = [layout.tables[slot].shared(length).blocks for layout in layouts]
        return tuple(map(Stack, zip(*tables, strict=True)))

    def adopt(self, slot: int, stacks: Sequence[Stack], length: int) -> None:
        """Let a slot, whatever it held, be the first `length` tokens that lie in these blocks.

        stacks: as `share` gave them, of this cache or a fork of it; those behind `length` are not
        held, nor are those that no later token sees. A last one that is not full is copied before
        the slot writes to it. An encoder input stays. Raises CacheError as `share` does, or where
        layers have let go of a block that the next token sees, OptionError where the blocks do not
        hold so many tokens.
        """
        slot, length = self._read_slot(slot), read_whole(length, "the length to adopt")
        self._in_blocks()
        if not 0 <= length <= len(stacks) * BLOCK:
            raise OptionError(
                f"{len(stacks)} blocks hold {len(stacks) * BLOCK} tokens, so no slot can adopt "
                f"{length} of them; give a length from 0 to that"
            )
        tables = {}
        for group, layout in enumerate(self._in_blocks()):
            blocks = [stack.blocks[group] for stack in stacks[: blocks_of(length)]]
            tables[layout] = _table(blocks, length, layout)
        self.abandon()  # which leaves layouts in blocks as they are
        lengths = list(self.lengths)
        lengths[slot] = length
        state = self._state.with_layouts({x: x.with_table(slot, y) for x, y in tables.items()})
        self._state = replace(state, counted=tuple(lengths))

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Of each group of layers whose blocks are its own, how many of the last tokens it keeps at
        least; None: all. Raises CacheError as `share` does."""
        return tuple(layout.window for layout in self._in_blocks())

    @property
    def sinks(self) -> tuple[int, ...]:
        """Of each group of `windows`, how many of the first tokens it keeps besides. Raises
        CacheError as `share` does."""
        return tuple(layout.sinks for layout in self._in_blocks())

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, all layers together. Raises CacheError as `share` does."""
        return sum(layout.memory.block_bytes for layout in self._in_blocks())

    @property
    def group_bytes(self) -> tuple[int, ...]:
        """Bytes of a block of each group of `windows`. Raises CacheError as `share` does."""
        return tuple(layout.memory.block_bytes for layout in self._in_blocks())

    @property
    def memories(self) -> tuple[BlockMemory, ...]:
        """Where the blocks of each group of `windows` lie. Raises CacheError as `share` does."""
        return tuple(layout.memory for layout in self._in_blocks())

    @property
    def held_ids(self) -> tuple[frozenset[int], ...]:
        """Of each group of `windows`, the numbers of the blocks that slots hold. Raises CacheError
        as `share` does."""
        return tuple(layout.held_ids for layout in self._in_blocks())

    def slot_blocks(self, slot: int) -> tuple[list[int], ...]:
        """Of each group of `windows`, the numbers of the blocks in a slot's table. Raises as
        `share`."""
        slot = self._read_slot(slot)
        return tuple(layout.tables[slot].held for layout in self._in_blocks())

    def slot_bytes(self, *slots: int) -> int:
        """Bytes of the blocks that the tokens of some slots lie in, those that they share counted
        for each. Raises as `share`."""
        layouts, lengths, found = self._in_blocks(), self.lengths, 0
        for slot in map(self._read_slot, slots):
            count = blocks_of(lengths[slot])
            for layout in layouts:
                table = layout.tables[slot]
                held = min(count, len(table.blocks)) - len(table.hole)
                found += held * layout.memory.block_bytes
        return found

    def num_new_bytes(self, slots: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Bytes of the free blocks that each of some slots takes to store so many tokens more.
        Raises as `share`."""
        layouts, lengths = self._in_blocks(), self.lengths
        found = []
        for slot, count in zip(map(self._read_slot, slots), counts, strict=True):
            length, num_bytes = lengths[slot], 0
            for layout in layouts:
                table = layout.tables[slot]
                copied = count > 0 and not table.takes(length)
                missing = max(0, blocks_of(length + count) - len(table.blocks))
                num_bytes += (missing + copied) * layout.memory.block_bytes
            found.append(num_bytes)
        return found

    def let_go(self) -> None:
        """Let go of the blocks that no later token sees, where steps do not (`lets_go`). Ends a
        lease, if it changes anything. Does nothing for what does not lie in blocks."""
        if self._state.without_passed(range(self.num_slots)) is not self._state:
            self.abandon()
            self._state = self._state.without_passed(range(self.num_slots))

    def release(self) -> None:
        """Give memory that no block in use lies on back to the system; blocks that are taken later
        take it again. Does nothing for what does not lie in blocks."""
        for layout in self._state.distinct:
            if isinstance(layout, BlockLayout):
                layout.memory.release()

    @property
    def can_share(self) -> bool:
        """Whether all of its layers lie in blocks, which slots can `share` and `adopt`."""
        return all(isinstance(layout, BlockLayout) for layout in self._state.distinct)

    def _in_blocks(self) -> list[BlockLayout]:
        found = [x for x in self._state.distinct if isinstance(x, BlockLayout)]
        if not self.can_share:
            raise CacheError(
                f"this {self.name} cache does not lie in blocks that slots could share; use a "
                "dynamic cache in memory, which does"
            )
        return found


def _table(blocks: Sequence[Block | None], length: int, layout: BlockLayout) -> Table:
    """Of what is shared, with those blocks that later tokens see and a few before."""
    needed, sunk = first_needed(layout.window, length), blocks_of(min(layout.sinks, length))
    seen = {*range(sunk), *range(needed // BLOCK, len(blocks))}
    lacking = max((i + 1 for i, block in enumerate(blocks) if block is None), default=0)
    if any(blocks[index] is None for index in seen):
        raise CacheError(
            f"what is to be adopted of {length:,} tokens lacks some before token "
            f"{lacking * BLOCK:,}, and the next one sees those from {needed:,} on; adopt fewer, or "
            "share more"
        )
    between = (None,) * (lacking - sunk)
    held = (*blocks[:sunk], *between, *blocks[max(sunk, lacking) :])
    gone = passed_blocks(layout.window, length, layout.sinks)
    return Table.of(held, False).without(gone).shared(length)
