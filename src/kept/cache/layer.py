"""One layer's stored keys and values: their buffers, and the operations that move their slots."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from kept.cache.layout import Relayout, Writes, lasting
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import Codec, ContiguousView, KVView, RingView, Span, StoredView

Buffers = tuple[Tensor, ...]


class LayerCache:
    """Keys and values of one layer, as their codec stores them.

    keys, values: a buffer for each part of the codec, (slots, G, capacity, width) each; codes and
    scales move alike. Forks share their buffers until one of them writes; call `own()` before
    writing to them, and read `keys` and `values` anew after any other method that mutates.
    """

    def __init__(
        self,
        shape: KVShape,
        num_slots: int,
        capacity: int,
        codec: Codec,
        device: torch.device,
    ) -> None:
        self.codec, self.num_kv_heads, self.head_dim = codec, shape.num_kv_heads, shape.head_dim
        size = (num_slots, shape.num_kv_heads, capacity)

        # Zeros: attention multiplies masked entries by zero, which must not meet a stray NaN.
        def empty() -> Buffers:
            return tuple(
                torch.zeros(*size, part.width, dtype=part.dtype, device=device)
                for part in codec.parts(shape.head_dim)
            )

        with lasting():
            self.keys, self.values = empty(), empty()
        self._shared, self._was_forked = WeakSet((self,)), False

    def append(self, k: Tensor, v: Tensor, writes: Writes, span: Span) -> KVView:
        """Store the packed keys and values (N, G, D) of a step; returns all that attention reads.

        Mutates the buffers, not the lengths. What is stored carries no gradient. Raises CacheError
        for another shape.
        """
        expected = (span.starts[-1], self.num_kv_heads, self.head_dim)
        if k.shape != expected or v.shape != expected:
            raise CacheError(
                f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit this layer, which "
                f"takes (rows, heads, head) = {expected}; make the cache from model.kv_shapes"
            )
        self.own()
        codec = self.codec
        parts = (*codec.encode(k.detach()), *codec.encode(v.detach()))
        for buffer, part in zip(self.keys + self.values, parts, strict=True):
            _write(buffer, part, writes)
        return self.view(span)

    def view(self, span: Span) -> StoredView:
        """What a step of this span reads."""
        kind = ContiguousView if span.index is None else RingView
        return kind(span, self.codec, self.head_dim, self.keys, self.values)

    def read(self, slot: int, entries: slice | list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values (G, S, D) of a slot's entries, decoded."""
        keys, values = (
            self.codec.decode([x[slot][:, entries] for x in buffers], self.head_dim)
            for buffers in (self.keys, self.values)
        )
        return keys, values

    def relaid(self, change: Relayout) -> tuple[Buffers, Buffers]:
        """Keys and values at another capacity; the layer itself stays as it is."""
        with lasting():
            return (
                tuple(_relaid(x, change) for x in self.keys),
                tuple(_relaid(x, change) for x in self.values),
            )

    def adopt(self, buffers: tuple[Buffers, Buffers]) -> None:
        """Replace the buffers by ones that nobody shares."""
        self._leave()
        self.keys, self.values = buffers

    def select(self, indices: Sequence[int]) -> None:
        """Slot i becomes a copy of what slot indices[i] was; copies only slots that change."""
        if len(indices) == self.num_slots:
            moved = [i for i, source in enumerate(indices) if source != i]
            if not moved:
                return
            if len(moved) < len(indices):
                self.own()
                for buffer in self.buffers:
                    buffer[moved] = buffer[[indices[i] for i in moved]]
                return
        order = torch.tensor(list(indices), dtype=torch.int64, device=self.keys[0].device)
        with lasting():
            self.adopt(
                (
                    tuple(x.index_select(0, order) for x in self.keys),
                    tuple(x.index_select(0, order) for x in self.values),
                )
            )

    def clear(self, slot: int, entries: slice | list[int]) -> None:
        """Zero entries of a slot."""
        self.own()
        for buffer in self.buffers:
            buffer[slot, :, entries] = 0

    def erase(self, writes: Writes) -> None:
        """Zero what `append` stored at `writes`."""
        self.own()
        for buffer in self.buffers:
            if writes.run is not None:
                slot, count, entry, num_new = writes.run
                buffer[slot : slot + count, :, entry : entry + num_new] = 0
            else:
                buffer[writes.slots, :, writes.entries] = 0

    def fork(self) -> LayerCache:
        """A copy that shares this layer's buffers until either is written to."""
        twin = LayerCache.__new__(LayerCache)
        self._share(twin)
        return twin

    def _share(self, twin: LayerCache) -> None:
        twin.codec, twin.num_kv_heads, twin.head_dim = self.codec, self.num_kv_heads, self.head_dim
        twin.keys, twin.values = self.keys, self.values
        twin._shared = self._shared
        twin._shared.add(twin)
        twin._was_forked = self._was_forked = True

    def own(self) -> None:
        """Copy the buffers if a fork shares them, so that they can be written to."""
        if self._was_forked and len(self._shared) > 1:
            with lasting():
                self.adopt((_cloned(self.keys), _cloned(self.values)))

    @property
    def buffers(self) -> Buffers:
        """All buffers, those of the keys first."""
        return self.keys + self.values

    @property
    def num_slots(self) -> int:
        """How many sequences the buffers have room for."""
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """Entries of each slot."""
        return self.keys[0].shape[2]

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(x.nbytes for x in self.buffers)

    def _leave(self) -> None:
        self._shared.discard(self)
        self._shared, self._was_forked = WeakSet((self,)), False


def _cloned(buffers: Buffers) -> Buffers:
    return tuple(x.clone() for x in buffers)


def _write(buffer: Tensor, x: Tensor, writes: Writes) -> None:
    if writes.run is not None:
        slot, count, entry, num_new = writes.run
        if count == num_new == 1:  # decoding one sequence: a plain row copy is several times faster
            buffer[slot, :, entry].copy_(x[0])
            return
        place = buffer[slot : slot + count, :, entry : entry + num_new]
        place.copy_(x.view(count, num_new, *x.shape[1:]).transpose(1, 2))
        return
    buffer[writes.slots, :, writes.entries] = x.to(buffer.dtype)


def _relaid(buffer: Tensor, change: Relayout) -> Tensor:
    slots, heads, capacity, width = buffer.shape
    new = buffer.new_zeros(slots, heads, change.capacity, width)
    if change.gather is None:
        # A growth that failed half-way leaves some buffers larger than the layout's capacity.
        kept = min(capacity, change.capacity)
        new[:, :, :kept] = buffer[:, :, :kept]
    elif capacity:
        gather = change.gather.to(buffer.device)
        taken = buffer.take_along_dim(gather.clamp(min=0)[:, None, :, None], dim=2)
        new = taken.masked_fill_((gather < 0)[:, None, :, None], 0)
    return new
