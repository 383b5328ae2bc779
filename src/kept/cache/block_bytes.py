"""The bytes of a cache's blocks, as they go to files and come from there.

a block of a group    layer 0: keys, values; layer 1: keys, values; ...
keys of a layer       the parts of their codec, each (G, 64, width)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kept.blocks import BLOCK, Block, Stack
from kept.cache.cache import Cache

_Pieces = list[NDArray[np.uint8]]


class BlockBytes:
    """Copies blocks of a cache out and in. Its memory must not move; see `can_copy`.

    group_bytes: of a block of each group of layers.
    """

    def __init__(self, cache: Cache) -> None:
        self._groups: list[_Pieces] = []  # (P, G, 64, bytes of a token) of each part of each layer
        self._memories = cache.memories
        for pool_of in self._memories:
            buffers = [buffer for layer in pool_of.buffers for buffer in layer]
            self._groups.append([buffer.view(torch.uint8).numpy() for buffer in buffers])
        self.group_bytes = cache.group_bytes

    @staticmethod
    def can_copy(cache: Cache) -> bool:
        """Whether the blocks of a cache lie in memory, where they stay."""
        return bool(cache.pools) and all(memory.stays for memory in cache.memories)

    def copy_out(
        self, stack: Stack, num_tokens: int, take: Callable[[int], memoryview]
    ) -> list[memoryview] | None:
        """The first tokens of a block, of each group, zeros behind them; None: one of the groups
        has let it go. Nobody may write to these tokens meanwhile. take: gives memory for so many
        bytes."""
        found: list[memoryview] = []
        if any(block is None for block in stack.blocks):
            return None
        for block, pieces, size in zip(stack.blocks, self._groups, self.group_bytes, strict=True):
            assert block is not None
            view, begin = take(size), 0
            data = np.frombuffer(view, np.uint8)
            if num_tokens < BLOCK:
                data[...] = 0
            for piece in pieces:
                one = piece[block.id]
                into = data[begin : begin + one.size].reshape(one.shape)
                if num_tokens == BLOCK:
                    into[...] = one
                else:
                    into[:, :num_tokens] = one[:, :num_tokens]
                begin += one.size
            found.append(view)
        return found

    def prepare(self, group: int, blocks: Sequence[Block]) -> None:
        """Have memory there for blocks that are about to be copied in."""
        self._memories[group].populate(blocks)

    def copy_in(self, group: int, block: Block, data: memoryview) -> None:
        """Have a block of a group hold these bytes; nobody else may have it yet."""
        flat, begin = np.frombuffer(data, np.uint8), 0
        for piece in self._groups[group]:
            one = piece[block.id]
            one[...] = flat[begin : begin + one.size].reshape(one.shape)
            begin += one.size
