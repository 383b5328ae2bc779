"""Blocks of tokens that go from one slot to another, or to whoever keeps them in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kept.blocks import BLOCK, Block
from kept.cache.block_layout import BlockLayout, Table
from kept.cache.indices import read_whole
from kept.cache.moving import Movable
from kept.errors import CacheError, OptionError
from kept.ops import plain_torch


class Sharing(Movable):
    """The side of a `Cache` that hands out the blocks its tokens lie in, and takes others in.

    A block stays what it is for as long as anybody holds it.
    """

    @plain_torch()
    def share(self, slot: int) -> tuple[Block, ...]:
        """The blocks that hold a slot's tokens, the last of which may be part full.

        These tokens are never written again; what the slot comes to hold behind them may go into
        the last block. Raises CacheError for a cache that does not lie in blocks (`pool`), or no
        slot of it.
        """
        slot, layout = self._read_slot(slot), self._in_blocks()
        return layout.tables[slot].shared(self.lengths[slot]).blocks

    @plain_torch()
    def adopt(self, slot: int, blocks: Sequence[Block], length: int) -> None:
        """Let a slot, whatever it held, be the first `length` tokens that lie in these blocks.

        blocks: as `share` gave them, of this cache or a fork of it; those behind `length` are not
        held. A last one that is not full is copied before the slot writes to it. An encoder input
        stays. Raises CacheError as `share` does, OptionError where the blocks do not hold so many
        tokens.
        """
        slot, length = self._read_slot(slot), read_whole(length, "the length to adopt")
        self._in_blocks()
        if not 0 <= length <= len(blocks) * BLOCK:
            raise OptionError(
                f"{len(blocks)} blocks hold {len(blocks) * BLOCK} tokens, so no slot can adopt "
                f"{length} of them; give a length from 0 to that"
            )
        self.abandon()
        layout, lengths = self._in_blocks(), list(self.lengths)
        lengths[slot] = length
        table = Table.of(blocks[: -(-length // BLOCK)], False).shared(length)
        state = self._state.with_layouts({layout: layout.with_table(slot, table)})
        self._state = replace(state, lengths=tuple(lengths))

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, all layers together. Raises CacheError as `share` does."""
        return self._in_blocks().memory.block_bytes

    def num_new_blocks(self, slots: Sequence[int], counts: Sequence[int]) -> list[int]:
        """How many free blocks each of some slots takes to store so many tokens more. Raises as
        `share` does."""
        layout, lengths = self._in_blocks(), self.lengths
        found = []
        for slot, count in zip(map(self._read_slot, slots), counts, strict=True):
            table, length = layout.tables[slot], lengths[slot]
            copied = count > 0 and not table.takes(length)
            found.append(max(0, -(-(length + count) // BLOCK) - len(table.blocks)) + copied)
        return found

    def release(self) -> None:
        """Give memory that no block in use lies on back to the system; blocks that are taken later
        take it again. Does nothing for what does not lie in blocks."""
        for layout in self._state.distinct:
            if isinstance(layout, BlockLayout):
                layout.memory.release()

    def _in_blocks(self) -> BlockLayout:
        found = self._state.distinct
        if len(found) != 1 or not isinstance(found[0], BlockLayout):
            raise CacheError(
                f"this {self.name} cache does not lie in blocks that slots could share; use a "
                "dynamic cache in memory, which does"
            )
        return found[0]
