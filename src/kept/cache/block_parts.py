"""What a block of a layer consists of: a part for each buffer of the codecs of keys and values."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch

from kept.blocks import BLOCK
from kept.cache import memory
from kept.cache.shape import KVShape
from kept.ops import KVCodec, Part

BlockPart = tuple[tuple[int, int, int], torch.dtype]  # (G, 64, width) of a block, and the dtype


def block_parts(shape: KVShape, codec: KVCodec) -> list[BlockPart]:
    """The buffers that a layer's blocks are in: of keys, then of values."""
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


def part_bytes(part: BlockPart) -> int:
    """Of a block."""
    size, dtype = part
    return prod(size) * dtype.itemsize


def in_pages(num_bytes: int) -> int:
    """These bytes, rounded up to whole pages."""
    return -(-num_bytes // memory.PAGE) * memory.PAGE
