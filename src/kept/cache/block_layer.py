"""One layer whose tokens lie in blocks, which all forks of a cache share for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from kept.blocks import BLOCK
from kept.cache.block_layout import BlockLayout
from kept.cache.block_memory import BlockMemory
from kept.cache.layer import Entries, LayerCache
from kept.cache.layout import Layout, Writes
from kept.cache.place import Buffers, Place
from kept.cache.shape import KVShape
from kept.ops import BlockView, KVCodec, Span


class BlockLayer(LayerCache):
    """Layer number `index` of a memory of blocks: (blocks, G, 64, width) for each part of a codec.

    What lies where, and who may write to it, tables say; so this is the same before and after
    everything that moves slots.
    """

    def __init__(
        self, shape: KVShape, memory: BlockMemory, index: int, codec: KVCodec, place: Place
    ) -> None:
        self.codec, self.num_kv_heads, self.place = codec, shape.num_kv_heads, place
        self.head_dim, self.value_dim = shape.head_dim, shape.value_width
        self.values_in_keys = shape.values_in_keys
        self.memory, self.index = memory, index
        self._num_key_parts = len(codec.keys.parts(shape.head_dim))

    @property
    def keys(self) -> Buffers:  # type: ignore[override]  # they may move, for all who share them
        """The buffers of keys."""
        return self.memory.buffers[self.index][: self._num_key_parts]

    @property
    def values(self) -> Buffers:  # type: ignore[override]
        """The buffers of values."""
        return self.memory.buffers[self.index][self._num_key_parts :]

    @property
    def generation(self) -> int:
        """See `LayerCache.generation`."""
        return self.memory.generation

    @property
    def is_shared(self) -> bool:
        """No block is written to that somebody else reads."""
        return False

    @property
    def zeroes(self) -> bool:
        """Views leave out what lies behind a sequence's end."""
        return False

    def num_bytes(self, layout: Layout) -> int:
        """See `LayerCache.num_bytes`: of the blocks in use."""
        assert isinstance(layout, BlockLayout)
        return layout.num_blocks * self.memory.layer_block_bytes(self.index)

    def view(self, span: Span) -> BlockView:
        """See `LayerCache.view`."""
        return BlockView(
            span, self.codec, self.head_dim, self.keys, self.values, value_dim=self.value_dim
        )

    def taken(self, buffer: Tensor, slot: int, entries: Entries) -> Tensor:
        """See `LayerCache.taken`."""
        blocks, within = _split(entries, buffer)
        return buffer[blocks, :, within].transpose(0, 1)

    def put(self, buffer: Tensor, slot: int, entries: Entries, rows: Tensor) -> None:
        """See `LayerCache.put`."""
        blocks, within = _split(entries, buffer)
        buffer[blocks, :, within] = rows.transpose(0, 1).to(buffer.device)

    def erase(self, writes: Writes) -> None:
        """Nothing reads what is behind a sequence's end."""

    def clear(self, slot: int, entries: Entries) -> None:
        """Nothing reads what is behind a sequence's end."""

    def relaid(self, capacity: int) -> Self:
        """Blocks keep their size."""
        return self

    def selected(self, indices: Sequence[int]) -> Self:
        """Tables are what moves."""
        return self

    def fork(self) -> Self:
        """See `LayerCache.fork`."""
        return self

    def cloned(self) -> Self:
        """A block is copied when it is to be written to."""
        return self


def _split(entries: Entries, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks and the entries in them, (S,) each."""
    assert isinstance(entries, list)
    flat = torch.tensor(entries, dtype=torch.int64, device=buffer.device)
    return flat // BLOCK, flat % BLOCK
