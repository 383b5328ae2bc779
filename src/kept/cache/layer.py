"""One layer's stored keys and values: two buffers and the operations that move their slots."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from kept.cache.layout import Relayout, Writes, lasting
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import ContiguousView, KVView, RingView, Span


class LayerCache:
    """Keys and values of one layer, (slots, G, capacity, D) each.

    Forks share their buffers until one of them writes; the writer then takes its own copy.
    """

    def __init__(
        self,
        shape: KVShape,
        num_slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        size = (num_slots, shape.num_kv_heads, capacity, shape.head_dim)
        # Zeros: attention multiplies masked entries by zero, which must not meet a stray NaN.
        with lasting():
            self.keys = torch.zeros(size, dtype=dtype, device=device)
            self.values = torch.zeros(size, dtype=dtype, device=device)
        self._shared = WeakSet((self,))

    def append(self, k: Tensor, v: Tensor, writes: Writes, span: Span) -> KVView:
        """Store the packed keys and values (N, G, D) of a step; returns all that attention reads.

        Mutates the buffers, not the lengths. What is stored carries no gradient. Raises CacheError
        for another shape.
        """
        expected = (span.starts[-1], self.keys.shape[1], self.keys.shape[3])
        if k.shape != expected or v.shape != expected:
            raise CacheError(
                f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit this layer, which "
                f"takes (rows, heads, head) = {expected}; make the cache from model.kv_shapes"
            )
        self._own()
        _write(self.keys, k.detach(), writes)
        _write(self.values, v.detach(), writes)
        view = ContiguousView if span.index is None else RingView
        return view(span, self.keys, self.values)

    def relaid(self, change: Relayout) -> tuple[Tensor, Tensor]:
        """Keys and values at another capacity; the layer itself stays as it is."""
        with lasting():
            return _relaid(self.keys, change), _relaid(self.values, change)

    def adopt(self, buffers: tuple[Tensor, Tensor]) -> None:
        """Replace the buffers by ones that nobody shares."""
        self._leave()
        self.keys, self.values = buffers

    def select(self, indices: Sequence[int]) -> None:
        """Slot i becomes a copy of what slot indices[i] was; copies only slots that change."""
        if len(indices) == self.keys.shape[0]:
            moved = [i for i, source in enumerate(indices) if source != i]
            if not moved:
                return
            if len(moved) < len(indices):
                self._own()
                for buffer in (self.keys, self.values):
                    buffer[moved] = buffer[[indices[i] for i in moved]]
                return
        order = torch.tensor(list(indices), dtype=torch.int64, device=self.keys.device)
        with lasting():
            self.adopt((self.keys.index_select(0, order), self.values.index_select(0, order)))

    def clear(self, slot: int, entries: slice | list[int]) -> None:
        """Zero entries of a slot."""
        self._own()
        self.keys[slot, :, entries] = 0
        self.values[slot, :, entries] = 0

    def erase(self, writes: Writes) -> None:
        """Zero what `append` stored at `writes`."""
        self._own()
        for buffer in (self.keys, self.values):
            if writes.run is not None:
                slot, count, entry, num_new = writes.run
                buffer[slot : slot + count, :, entry : entry + num_new] = 0
            else:
                buffer[writes.slots, :, writes.entries] = 0

    def fork(self) -> LayerCache:
        """A copy that shares this layer's buffers until either is written to."""
        twin = LayerCache.__new__(LayerCache)
        twin.keys, twin.values = self.keys, self.values
        twin._shared = self._shared
        twin._shared.add(twin)
        return twin

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers."""
        return self.keys.nbytes + self.values.nbytes

    def _own(self) -> None:
        if len(self._shared) > 1:
            with lasting():
                self.adopt((self.keys.clone(), self.values.clone()))

    def _leave(self) -> None:
        self._shared.discard(self)
        self._shared = WeakSet((self,))


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
