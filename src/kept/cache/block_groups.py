"""Layers in blocks, those of each distinct window in blocks of their own.

window     all         512                           blocks of all layers count against
layers     5 11 ..     0 1 2 3 4 6 ..                one budget of bytes
blocks     0 1 2 3     . . 0 1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kept.cache.block_layout import BlockLayout
from kept.cache.block_memories import block_memories
from kept.cache.block_table import EMPTY
from kept.cache.layout import Layout
from kept.cache.place import InMemory, Place
from kept.cache.shape import KVShape
from kept.ops import KVCodec


def block_layouts(
    shapes: Sequence[KVShape],
    windows: Sequence[int | None],
    num_slots: int,
    codec: KVCodec,
    device: torch.device,
    pool_bytes: int | None = None,
    sinks: int = 0,
    place: Place | None = None,
) -> list[BlockLayout]:
    """(L,) the layout of each layer, empty; layers of the same window have the same one.

    windows: (L,) of each layer, None: it keeps everything. pool_bytes: of all blocks together at
    most. sinks: of layers that have a window. place: where blocks lie, by default in the device's
    memory. Raises OptionError where not one block of all layers fits, CacheFullError where the
    system grants no memory for one.
    """
    if not shapes:
        return []
    distinct = list(dict.fromkeys(windows))
    groups = [
        [shape for shape, of in zip(shapes, windows, strict=True) if of == window]
        for window in distinct
    ]
    memories = block_memories(groups, codec, device, pool_bytes, place)
    made = {
        window: BlockLayout(memory, (EMPTY,) * num_slots, window, 0 if window is None else sinks)
        for window, memory in zip(distinct, memories, strict=True)
    }
    return [made[window] for window in windows]


def with_shapes(
    layouts: Sequence[Layout],
    shapes: Sequence[KVShape],
    codec: KVCodec,
    device: torch.device,
    place: Place,
) -> list[Layout]:
    """(L,) layouts like these, where layers come to store other shapes: those in blocks anew,
    without a token, and others as they are."""
    pairs = zip(layouts, shapes, strict=True)
    lying = [(of, shape) for of, shape in pairs if isinstance(of, BlockLayout)]
    made = iter(
        block_layouts(
            [shape for _, shape in lying],
            [of.window for of, _ in lying],
            layouts[0].num_slots,
            codec,
            device,
            lying[0][0].memory.pool.budget.limit,
            max(of.sinks for of, _ in lying),
            None if isinstance(place, InMemory) else place,
        )
    )
    return [next(made) if isinstance(of, BlockLayout) else of for of in layouts]
