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

import logging
import mmap
import sys
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from kept.blocks import BLOCK, UNLIMITED, Block, BlockPool, Budget
from kept.cache import memory
from kept.cache.layout import lasting
from kept.cache.place import Buffers, InMemory, Place
from kept.cache.shape import KVShape
from kept.errors import CacheFullError, OptionError
from kept.format import format_bytes
from kept.machine import total_memory
from kept.ops import KVCodec, Part

log = logging.getLogger("kept")

MOST = (1 << 31) - 1  # blocks that a table of int32 can name
CAN_RESERVE = sys.platform in ("linux", "darwin")
SIZE_UNKNOWN = 8 << 30  # bytes where the system does not say how much memory there is


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
        self._parts = [_parts(shape, codec) for shape in shapes]
        self.buffers: list[Buffers]  # of each layer, keys before values
        self._reserved = reserved
        self._enlarged = 0  # blocks before this one are in huge pages
        largest = max(_bytes_of(part) for parts in self._parts for part in parts)
        self._huge_blocks = -(-memory.HUGE_PAGE // largest)  # how many fill one
        if reserved is None:
            self.buffers = [tuple(self._made(x, 1) for x in parts) for parts in self._parts]
            return
        offsets = iter(self._offsets())

        def view(part: _Size) -> Tensor:
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
        return sum(map(_bytes_of, self._parts[index]))

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

    def populate(self, blocks: Sequence[Block]) -> None:
        """Have memory there for blocks that are about to be written to as a whole; see
        `memory.populate`. It is there anyway; this saves time."""
        if self._reserved is None or not blocks:
            return
        first, last = min(block.id for block in blocks), max(block.id for block in blocks)
        if last - first >= 2 * len(blocks):
            return  # what lies between is others'
        for part, begin in self._offsets():
            size = _bytes_of(part)
            memory.populate(self._reserved[0], begin + first * size, begin + (last + 1) * size)

    def release(self) -> None:
        """Give the whole pages back to the system on which no block in use lies. Buffers that grow
        keep theirs, which does not count."""
        with self.pool.idle() as runs:
            if self._reserved is None:
                return
            for part, begin in self._offsets():
                size = _bytes_of(part)
                self._enlarged = 0
                for run in runs:
                    memory.forget(
                        self._reserved[0], begin + run.start * size, begin + run.stop * size
                    )

    def _offsets(self) -> list[tuple[_Size, int]]:
        """Where in the memory each buffer begins, in bytes."""
        assert self._reserved is not None
        found, offset = [], self._reserved[1]
        for parts in self._parts:
            for part in parts:
                found.append((part, offset))
                offset += _in_pages(self.pool.num_blocks * _bytes_of(part))
        return found

    def _enlarge(self, top: int) -> None:
        """Let blocks up to number `top` lie in huge pages, as far as they fill them."""
        assert self._reserved is not None
        for part, begin in self._offsets():
            size = _bytes_of(part)
            first = max(0, self._enlarged * size - memory.HUGE_PAGE)  # one was not full
            memory.enlarge(self._reserved[0], begin + first, begin + top * size)
        self._enlarged = top

    def _made(self, part: _Size, count: int) -> Tensor:
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
        self.buffers, self.generation = wider, self.generation + 1


def block_memories(
    groups: Sequence[Sequence[KVShape]],
    codec: KVCodec,
    device: torch.device,
    pool_bytes: int | None = None,
    place: Place | None = None,
) -> list[BlockMemory]:
    """A memory for each group of layers, which have a budget together.

    groups: what each layer of a group stores. pool_bytes: of all blocks at most, None: what this
    machine's memory holds. place: of the blocks, None: the device's memory. Raises OptionError
    where not one block of all layers fits, and CacheFullError where the system grants no memory
    for one.
    """
    sizes = [[_parts(shape, codec) for shape in shapes] for shapes in groups]
    each = [sum(_bytes_of(x) for parts in group for x in parts) for group in sizes]
    total = sum(each)
    most = pool_bytes if pool_bytes is not None else _size_of(place)
    if pool_bytes is not None and pool_bytes < total:
        raise OptionError(
            f"pool_bytes={pool_bytes:,} holds no block: {BLOCK} tokens in "
            f"{sum(map(len, groups))} layers take {total:,} bytes; give at least as many"
        )
    most = max(most, total)

    def counts() -> list[int]:
        return [min(most // size, MOST) for size in each]

    def needed() -> list[int]:
        pairs = zip(sizes, counts(), strict=True)
        return [
            sum(_in_pages(count * _bytes_of(x)) for parts in group for x in parts)
            for group, count in pairs
        ]

    found: mmap.mmap | None = None
    asked = most
    while place is None and device.type == "cpu" and CAN_RESERVE:
        found = memory.reserved(sum(needed()))
        if found is not None:
            break
        most = most // total // 2 * total
        if not most:
            raise CacheFullError(
                f"there is no room in memory for a block of {BLOCK} tokens, "
                f"{format_bytes(total)}; raise the limit of address space (ulimit -v), or make the "
                "cache where there is more memory"
            )
    if most < asked:
        log.warning(
            "the system reserves memory for %s blocks of %s tokens, not %s; raise the limit of "
            "address space (ulimit -v) or allow overcommitting (vm.overcommit_memory)",
            *(most // total, BLOCK, asked // total),
        )
    budget = Budget(most)
    begins = [0, *accumulate(needed())]
    made = [
        BlockMemory(
            shapes,
            codec,
            BlockPool(count, size, budget),
            place or InMemory(device),
            None if found is None else (found, begin),
        )
        for shapes, count, size, begin in zip(groups, counts(), each, begins, strict=False)
    ]
    for one in made:
        one.beside = tuple(map(weakref.ref, made))
    return made


def _size_of(place: Place | None) -> int:
    """Bytes of blocks that there is memory for; files say so themselves when they are full."""
    return total_memory() or SIZE_UNKNOWN if place is None else UNLIMITED


_Size = tuple[tuple[int, int, int], torch.dtype]  # of a block in one part


def _parts(shape: KVShape, codec: KVCodec) -> list[_Size]:
    """Of keys, then of values."""
    # What is whole may be a tensor, which `+=` would change for all who have it.
    heads, key_width, value_width = map(
        int, (shape.num_kv_heads, shape.head_dim, shape.stored_value_width)
    )
    sides: list[tuple[Callable[[int], tuple[Part, ...]], int]] = [
        (codec.keys.parts, key_width),
        (codec.values.parts, value_width),
    ]
    return [
        ((heads, BLOCK, part.width), part.dtype) for parts, width in sides for part in parts(width)
    ]


def _bytes_of(part: _Size) -> int:
    size, dtype = part
    return prod(size) * dtype.itemsize


def _in_pages(num_bytes: int) -> int:
    return -(-num_bytes // memory.PAGE) * memory.PAGE
