"""The memories of a cache's groups of layers: one reservation and one budget for all of them."""

from __future__ import annotations

import gc
import logging
import mmap
import sys
import weakref
from collections.abc import Sequence
from itertools import accumulate

import torch

from kept.blocks import BLOCK, UNLIMITED, BlockPool, Budget
from kept.cache import memory
from kept.cache.block_memory import BlockMemory
from kept.cache.block_parts import block_parts, in_pages, part_bytes
from kept.cache.place import InMemory, Place
from kept.cache.shape import KVShape
from kept.errors import CacheFullError, OptionError
from kept.format import format_bytes
from kept.machine import total_memory
from kept.ops import KVCodec

log = logging.getLogger("kept")

MOST = (1 << 31) - 1  # blocks that a table of int32 can name
CAN_RESERVE = sys.platform in ("linux", "darwin")
SIZE_UNKNOWN = 8 << 30  # bytes where the system does not say how much memory there is


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
    sizes = [[block_parts(shape, codec) for shape in shapes] for shapes in groups]
    each = [sum(part_bytes(x) for parts in group for x in parts) for group in sizes]
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
            sum(in_pages(count * part_bytes(x)) for parts in group for x in parts)
            for group, count in pairs
        ]

    found: mmap.mmap | None = None
    asked = most
    while place is None and device.type == "cpu" and CAN_RESERVE:
        found = memory.reserved(sum(needed()))
        if found is None and most == asked:
            gc.collect()  # a model that nobody has any more is a cycle, and keeps what it reserved
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
