"""Layers in blocks, those of each distinct window in blocks of their own.

window     all         512                           blocks of all layers count against
layers     5 11 ..     0 1 2 3 4 6 ..                one budget of bytes
blocks     0 1 2 3     . . 0 1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kept.cache.block_layout import BlockLayout
from kept.cache.block_memory import block_memories
from kept.cache.shape import KVShape
from kept.ops import KVCodec


def block_layouts(
    shapes: Sequence[KVShape],
    windows: Sequence[int | None],
    num_slots: int,
    codec: KVCodec,
    device: torch.device,
    pool_bytes: int | None = None,
) -> list[BlockLayout]:
    """(L,) the layout of each layer, empty; layers of the same window have the same one.

    windows: (L,) of each layer, None: it keeps everything. pool_bytes: of all blocks together at
    most. Raises OptionError where not one block of all layers fits, CacheFullError where the system
    grants no memory for one.
    """
    distinct = list(dict.fromkeys(windows))
    groups = [
        [shape for shape, of in zip(shapes, windows, strict=True) if of == window]
        for window in distinct
    ]
    memories = block_memories(groups, codec, device, pool_bytes)
    made = {
        window: BlockLayout.empty(memory, num_slots, window)
        for window, memory in zip(distinct, memories, strict=True)
    }
    return [made[window] for window in windows]
