"""The memory of blocks: of each layer a buffer for all of them, reserved once and never moved.

    pages        | 0      | 1      | 2      | 3      | ...
    layer 0      block 0   block 1   block 2 ...         keys
                 block 0   block 1   block 2 ...         values
    layer 1      ...

Memory is reserved for as many blocks as there may ever be, and a page of it comes to be when
something is first written there; blocks of low numbers are taken first, so that those pages are
few. Huge pages come where blocks have filled them: each buffer would have one that is mostly empty.
Where memory cannot be reserved without taking it (on another device than the CPU, on Windows, or
in files), buffers grow by doubling, and move.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from kept.blocks import BLOCK, Block, BlockPool
from kept.cache import memory
from kept.cache.block_copies import Entries, copy_entries, entries_of
from kept.cache.block_parts import BlockPart, block_parts, in_pages, part_bytes
from kept.cache.layout import Copies, lasting
from kept.cache.place import Buffers, Place
from kept.cache.shape import KVShape
from kept.errors import CacheFullError
from kept.format import format_bytes
from kept.ops import KVCodec


class BlockMemory:
    """Buffers (P, G, 64, width) of several layers, one for each part of their codec.

    pool: which blocks are in use, the same in all layers. generation: how often the buffers have
    moved. beside: the memories whose pools share a budget, itself included.
    """

    def __init__(
        self,
        shapes: Sequence[KVShape],
        codec: KVCodec,
        pool: BlockPool,
        place: Place,
        reserved: tuple[mmap.mmap, int] | None = None,
    ) -> None:
        """reserved: memory for all blocks of the pool, and where in it they begin; None: to grow
        as blocks are taken, in `place`."""
        self.generation, self.pool, self._place = 0, pool, place
        self.beside: tuple[weakref.ref[BlockMemory], ...] = ()
        self._entries: list[Entries] | None = None  # of all buffers, once some were copied
        self._parts = [block_parts(shape, codec) for shape in shapes]
        self.buffers: list[Buffers]  # of each layer, keys before values
        self._reserved = reserved
        self._enlarged = 0  # blocks before this one are in huge pages
        largest = max(part_bytes(part) for parts in self._parts for part in parts)
        self._huge_blocks = -(-memory.HUGE_PAGE // largest)  # how many fill one
        if reserved is None:
            self.buffers = [tuple(self._made(x, 1) for x in parts) for parts in self._parts]
            return
        offsets = iter(self._offsets())

        def view(part: BlockPart) -> Tensor:
            size, dtype = part
            _, offset = next(offsets)
            count = pool.num_blocks * prod(size)
            flat = torch.frombuffer(reserved[0], dtype=dtype, count=count, offset=offset)
            return flat.view(pool.num_blocks, *size)

        with lasting():
            self.buffers = [tuple(map(view, parts)) for parts in self._parts]

    def share_budget(self, other: BlockMemory) -> None:
        """Have one budget with another memory. To be called before a block is taken."""
        self.pool.draw_on(other.pool.budget)
        together = (*other.beside, weakref.ref(self))
        for each in [found() for found in together]:
            if each is not None:
                each.beside = together

    @property
    def stays(self) -> bool:
        """Whether its buffers lie in this machine's memory and never move."""
        return self._reserved is not None

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in all of its layers."""
        return self.pool.block_bytes

    def layer_block_bytes(self, index: int) -> int:
        """Bytes of a block in one layer."""
        return sum(map(part_bytes, self._parts[index]))

    def take(self, count: int) -> list[Block]:
        """Free blocks. Raises CacheFullError where there are fewer."""
        try:
            found = self._taken(count)
        except CacheFullError as error:
            each, pool = self.block_bytes, self.pool
            raise CacheFullError(
                f"{count:,} more blocks of {BLOCK} tokens ({format_bytes(count * each)}) are "
                f"needed, and {pool.num_free:,} of {pool.num_blocks:,} "
                f"({format_bytes(pool.num_blocks * each)}) are free; truncate other sequences or "
                "drop their caches, give the cache more pool_bytes, or store a smaller kv_dtype"
            ) from error
        top = max((block.id + 1 for block in found), default=0)
        if self._reserved is None:
            self._grow(top)
            return found
        if top >= self._enlarged + self._huge_blocks:
            self._enlarge(top)
        return found

    def _taken(self, count: int) -> list[Block]:
        """Blocks of the pool, for which memory that other groups have let go of makes way."""
        if count > self.pool.num_free:
            for each in [found() for found in self.beside]:
                if each is not None and each is not self:
                    each.release()
        return self.pool.take(count)

    def copy_blocks(self, copies: Copies) -> None:
        """See `Layout.copy_blocks`."""
        if self._entries is None:
            self._entries = [entries_of(buffer) for buffers in self.buffers for buffer in buffers]
        copy_entries(self._entries, copies)

    def populate(self, blocks: Sequence[Block]) -> None:
        """Have memory there for blocks that are about to be written to as a whole; see
        `memory.populate`. It is there anyway; this saves time."""
        if self._reserved is None or not blocks:
            return
        first, last = min(block.id for block in blocks), max(block.id for block in blocks)
        if last - first >= 2 * len(blocks):
            return  # what lies between is others'
        for part, begin in self._offsets():
            size = part_bytes(part)
            memory.populate(self._reserved[0], begin + first * size, begin + (last + 1) * size)

    def release(self) -> None:
        """Give the whole pages back to the system on which no block in use lies. Buffers that grow
        keep theirs, which does not count."""
        with self.pool.idle() as runs:
            if self._reserved is None:
                return
            for part, begin in self._offsets():
                size = part_bytes(part)
                self._enlarged = 0
                for run in runs:
                    memory.forget(
                        self._reserved[0], begin + run.start * size, begin + run.stop * size
                    )

    def _offsets(self) -> list[tuple[BlockPart, int]]:
        """Where in the memory each buffer begins, in bytes."""
        assert self._reserved is not None
        found, offset = [], self._reserved[1]
        for parts in self._parts:
            for part in parts:
                found.append((part, offset))
                offset += in_pages(self.pool.num_blocks * part_bytes(part))
        return found

    def _enlarge(self, top: int) -> None:
        """Let blocks up to number `top` lie in huge pages, as far as they fill them."""
        assert self._reserved is not None
        for part, begin in self._offsets():
            size = part_bytes(part)
            first = max(0, self._enlarged * size - memory.HUGE_PAGE)  # one was not full
            memory.enlarge(self._reserved[0], begin + first, begin + top * size)
        self._enlarged = top

    def _made(self, part: BlockPart, count: int) -> Tensor:
        size, dtype = part
        with lasting():
            return self._place.zeros((count, *size), dtype)

    def _grow(self, needed: int) -> None:
        rows = len(self.buffers[0][0])
        if needed <= rows:
            return
        rows = min(max(needed, 2 * rows), self.pool.num_blocks)
        wider = [tuple(self._made(x, rows) for x in parts) for parts in self._parts]
        with lasting():
            for layer, old in zip(wider, self.buffers, strict=True):
                for new, x in zip(layer, old, strict=True):
                    new[: len(x)] = x
                self._place.leave(layer)
        # Entries of the old buffers would keep their memory, or their files.
        self.buffers, self._entries, self.generation = wider, None, self.generation + 1
