"""The memory of blocks: of each layer a buffer for all of them, reserved once and never moved.

    pages        | 0      | 1      | 2      | 3      | ...
    layer 0      block 0   block 1   block 2 ...         keys
                 block 0   block 1   block 2 ...         values
    layer 1      ...

Memory is reserved for as many blocks as there may ever be, and a page of it comes to be when
something is first written there; blocks of low numbers are taken first, so that those pages are
few. Huge pages come where blocks have filled them: each buffer would have one that is mostly empty.
Where memory cannot be reserved without taking it (on another device than the CPU, or Windows),
buffers grow by doubling, and move.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from kept.blocks import BLOCK, Block, BlockPool
from kept.cache import memory
from kept.cache.layout import lasting
from kept.cache.place import Buffers
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
    moved.
    """

    def __init__(
        self,
        shapes: Sequence[KVShape],
        codec: KVCodec,
        device: torch.device,
        pool_bytes: int | None = None,
    ) -> None:
        """pool_bytes: of blocks at most, None: what this machine's memory holds. Raises OptionError
        where not one block of all layers fits."""
        self.device, self.generation = device, 0
        self._shapes, self._codec, self._pool_bytes = tuple(shapes), codec, pool_bytes
        self.buffers: list[Buffers] = []  # of each layer, keys before values
        self._parts = [_parts(shape, codec) for shape in shapes]
        each = self.block_bytes
        most = pool_bytes if pool_bytes is not None else total_memory() or SIZE_UNKNOWN
        if pool_bytes is not None and pool_bytes < each:
            raise OptionError(
                f"pool_bytes={pool_bytes:,} holds no block: {BLOCK} tokens in {len(shapes)} layers "
                f"take {each:,} bytes; give at least as many"
            )
        count = min(max(most // each, 1), MOST)
        self.reserves = device.type == "cpu" and CAN_RESERVE
        if self.reserves:
            count = self._reserve(count)
        else:
            self.buffers = [tuple(self._made(x, 1) for x in parts) for parts in self._parts]
        self.pool = BlockPool(count)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in all layers."""
        return sum(_bytes_of(part) for parts in self._parts for part in parts)

    def layer_block_bytes(self, index: int) -> int:
        """Bytes of a block in one layer."""
        return sum(map(_bytes_of, self._parts[index]))

    def take(self, count: int) -> list[Block]:
        """Free blocks. Raises CacheFullError where there are fewer."""
        try:
            found = self.pool.take(count)
        except CacheFullError as error:
            each, pool = self.block_bytes, self.pool
            raise CacheFullError(
                f"{count:,} more blocks of {BLOCK} tokens ({format_bytes(count * each)}) are "
                f"needed, and {pool.num_free:,} of {pool.num_blocks:,} "
                f"({format_bytes(pool.num_blocks * each)}) are free; truncate other sequences or "
                "drop their caches, give the cache more pool_bytes, or store a smaller kv_dtype"
            ) from error
        top = max((block.id + 1 for block in found), default=0)
        if not self.reserves:
            self._grow(top)
        elif top >= self._enlarged + self._huge_blocks:
            self._enlarge(top)
        return found

    def release(self) -> None:
        """Give the whole pages back to the system on which no block in use lies."""
        if not self.reserves:
            return
        with self.pool.idle() as runs:
            for part, begin in self._offsets():
                size = _bytes_of(part)
                self._enlarged = 0
                for run in runs:
                    memory.forget(self._memory, begin + run.start * size, begin + run.stop * size)

    def reshaped(self, index: int, shape: KVShape) -> BlockMemory:
        """An empty one for layers of which one has another shape."""
        shapes = (*self._shapes[:index], shape, *self._shapes[index + 1 :])
        return BlockMemory(shapes, self._codec, self.device, self._pool_bytes)

    def _reserve(self, count: int) -> int:
        """Make the buffers of so many blocks, or of half as many until the system grants it;
        returns how many there are."""
        asked = count
        while True:
            sizes = [_in_pages(count * _bytes_of(x)) for parts in self._parts for x in parts]
            found = memory.reserved(sum(sizes))
            if found is not None:
                break
            count //= 2
            if not count:
                raise CacheFullError(
                    f"there is no room in memory for a block of {BLOCK} tokens, "
                    f"{format_bytes(self.block_bytes)}; raise the limit of address space (ulimit "
                    "-v), or make the cache where there is more memory"
                )
        if count < asked:
            log.warning(
                "the system reserves memory for %s blocks of %s tokens, not %s; raise the limit of "
                "address space (ulimit -v) or allow overcommitting (vm.overcommit_memory)",
                *(count, BLOCK, asked),
            )
        self._memory, self._count = found, count
        self._enlarged = 0  # blocks before this one are in huge pages
        largest = max(_bytes_of(part) for parts in self._parts for part in parts)
        self._huge_blocks = -(-memory.HUGE_PAGE // largest)  # how many fill one
        offsets = iter(self._offsets())

        def view(part: _Size) -> Tensor:
            size, dtype = part
            _, offset = next(offsets)
            flat = torch.frombuffer(found, dtype=dtype, count=count * prod(size), offset=offset)
            return flat.view(count, *size)

        with lasting():
            self.buffers = [tuple(map(view, parts)) for parts in self._parts]
        return count

    def _offsets(self) -> list[tuple[_Size, int]]:
        """Where in the memory each buffer begins, in bytes."""
        found, offset = [], 0
        for parts in self._parts:
            for part in parts:
                found.append((part, offset))
                offset += _in_pages(self._count * _bytes_of(part))
        return found

    def _enlarge(self, top: int) -> None:
        """Let blocks up to number `top` lie in huge pages, as far as they fill them."""
        for part, begin in self._offsets():
            size = _bytes_of(part)
            first = max(0, self._enlarged * size - memory.HUGE_PAGE)  # one was not full
            memory.enlarge(self._memory, begin + first, begin + top * size)
        self._enlarged = top

    def _made(self, part: _Size, count: int) -> Tensor:
        size, dtype = part
        with lasting():
            return memory.zeros((count, *size), dtype, self.device)

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
        self.buffers, self.generation = wider, self.generation + 1


_Size = tuple[tuple[int, int, int], torch.dtype]  # of a block in one part


def _parts(shape: KVShape, codec: KVCodec) -> list[_Size]:
    """Of keys, then of values."""
    # What is whole may be a tensor, which `+=` would change for all who have it.
    heads, key_width, value_width = map(
        int, (shape.num_kv_heads, shape.head_dim, shape.value_width)
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
