"""One layer's stored keys and values: their buffers, and the operations that move their slots."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from kept.cache.layout import Relayout, Writes, lasting
from kept.cache.place import Buffers, Place
from kept.cache.shape import KVShape
from kept.cache.sinks import SINK_DTYPE, erase_sinks, put_sinks
from kept.errors import CacheError
from kept.ops import (
    Codec,
    ContiguousView,
    KVCodec,
    RingView,
    Span,
    StoredView,
    encode_heads,
    plain_torch,
)

Entries = slice | list[int]
Moves = tuple[Entries, Entries]  # entries of one slot, and which they become


class LayerCache:
    """Keys and values of one layer, as their codecs store them.

    keys, values: a buffer for each part of their codec, (slots, G, capacity, width) each; codes and
    scales move alike. Forks share their buffers until one of them writes; call `own()` before
    writing to them, and read them anew after any other method that mutates.
    key_sinks, value_sinks: what `sinks.py` holds beside codes; None where there are none.
    """

    def __init__(
        self,
        shape: KVShape,
        num_slots: int,
        capacity: int,
        codec: KVCodec,
        place: Place,
        unquantized_sinks: int = 0,
    ) -> None:
        self.codec, self.num_kv_heads, self.head_dim = codec, shape.num_kv_heads, shape.head_dim
        self.place = place
        size = (num_slots, shape.num_kv_heads, capacity)

        # Zeros: attention multiplies masked entries by zero, which must not meet a stray NaN.
        def empty(of: Codec) -> Buffers:
            return tuple(
                place.zeros((*size, part.width), part.dtype) for part in of.parts(shape.head_dim)
            )

        def apart(of: Codec) -> Tensor | None:
            if not unquantized_sinks or not of.is_coded:
                return None
            room = num_slots, shape.num_kv_heads, unquantized_sinks, shape.head_dim
            return place.zeros(room, SINK_DTYPE)

        with lasting():
            self.keys, self.values = empty(codec.keys), empty(codec.values)
            self.key_sinks, self.value_sinks = apart(codec.keys), apart(codec.values)
        self._shared, self._was_forked = WeakSet((self,)), False

    @plain_torch()
    def append(self, k: Tensor, v: Tensor, writes: Writes, span: Span) -> StoredView:
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
        parts = (*encode_heads(codec.keys, k.detach()), *encode_heads(codec.values, v.detach()))
        for buffer, part in zip(self.keys + self.values, parts, strict=True):
            _write(buffer, part, writes)
        for sinks, of, x in ((self.key_sinks, codec.keys, k), (self.value_sinks, codec.values, v)):
            if sinks is not None:
                put_sinks(sinks, x.detach(), span, of)
        return self.view(span)

    def view(self, span: Span) -> StoredView:
        """What a step of this span reads."""
        kind = ContiguousView if span.index is None else RingView
        stored = self.keys, self.values, self.key_sinks, self.value_sinks
        return kind(span, self.codec, self.head_dim, *stored)

    def read(self, slot: int, entries: list[int], begin: int) -> tuple[Tensor, Tensor]:
        """Keys and values (G, S, D) of a slot's entries, decoded, that hold tokens from `begin` on
        in their order."""

        def decoded(of: Codec, buffers: Buffers, sinks: Tensor | None) -> Tensor:
            found = of.read([x[slot][:, entries] for x in buffers], self.head_dim)
            if sinks is not None:
                apart = sinks[slot, :, begin : begin + len(entries)]
                found[:, : apart.shape[1]] = apart
            return of.turned(found).to(self.codec.dtype)

        keys = decoded(self.codec.keys, self.keys, self.key_sinks)
        return keys, decoded(self.codec.values, self.values, self.value_sinks)

    def relaid(self, change: Relayout) -> Buffers:
        """All buffers at another capacity; the layer itself stays as it is."""
        with lasting():
            moved = tuple(self._relaid(x, change) for x in self.keys + self.values)
            return moved + tuple(map(self.place.clone, self.sinks))

    def adopt(self, buffers: Buffers) -> None:
        """Replace all buffers, as `buffers` orders them, by ones that nobody shares."""
        self._leave()
        rest = iter(buffers)
        self.keys = tuple(next(rest) for _ in self.keys)
        self.values = tuple(next(rest) for _ in self.values)
        self.key_sinks = None if self.key_sinks is None else next(rest)
        self.value_sinks = None if self.value_sinks is None else next(rest)

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
            taken = tuple(self._taken(x, order) for x in self.buffers)
        self.adopt(taken)

    def _taken(self, buffer: Tensor, order: Tensor) -> Tensor:
        new = self.place.zeros((len(order), *buffer.shape[1:]), buffer.dtype)
        return torch.index_select(buffer, 0, order, out=new)

    def take(
        self, begin: int, source: LayerCache, moves: Sequence[Moves], lengths: Sequence[int]
    ) -> None:
        """Copy what another layer holds to slots from `begin` on. moves, lengths: of its slots."""
        self.own()
        pairs = zip(self.keys + self.values, source.keys + source.values, strict=True)
        for into, x in pairs:
            for slot, (old, new) in enumerate(moves):
                into[begin + slot][:, new] = x[slot][:, old]
        for into, x in zip(self.sinks, source.sinks, strict=True):
            for slot, length in enumerate(lengths):
                into[begin + slot, :, :length] = x[slot, :, :length]

    def clear(self, slot: int, entries: slice | list[int], begin: int) -> None:
        """Zero entries of a slot, which hold all its tokens from `begin` on."""
        self.own()
        for buffer in self.keys + self.values:
            buffer[slot, :, entries] = 0
        for buffer in self.sinks:
            buffer[slot, :, begin:] = 0

    def erase(self, writes: Writes, span: Span) -> None:
        """Zero what `append` stored at `writes`."""
        self.own()
        for buffer in self.sinks:
            erase_sinks(buffer, span)
        for buffer in self.keys + self.values:
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
        twin.place, twin.keys, twin.values = self.place, self.keys, self.values
        twin.key_sinks, twin.value_sinks = self.key_sinks, self.value_sinks
        twin._shared = self._shared
        twin._shared.add(twin)
        twin._was_forked = self._was_forked = True

    def own(self) -> None:
        """Copy the buffers if a fork shares them, so that they can be written to."""
        if self._was_forked and len(self._shared) > 1:
            with lasting():
                clones = tuple(map(self.place.clone, self.buffers))
            self.adopt(clones)

    @property
    def buffers(self) -> Buffers:
        """All buffers: of keys, of values, and what is held beside both."""
        return self.keys + self.values + self.sinks

    @property
    def sinks(self) -> Buffers:
        """The buffers of tokens beside their codes, (slots, G, n, D) each."""
        return tuple(x for x in (self.key_sinks, self.value_sinks) if x is not None)

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

    def _relaid(self, buffer: Tensor, change: Relayout) -> Tensor:
        slots, heads, capacity, width = buffer.shape
        new = self.place.zeros((slots, heads, change.capacity, width), buffer.dtype)
        if change.gather is None:
            # A growth that failed half-way leaves some buffers larger than the layout's capacity.
            kept = min(capacity, change.capacity)
            new[:, :, :kept] = buffer[:, :, :kept]
        elif capacity:
            gather = change.gather.to(buffer.device)
            taken = buffer.take_along_dim(gather.clamp(min=0)[:, None, :, None], dim=2)
            new.copy_(taken.masked_fill_((gather < 0)[:, None, :, None], 0))
        return new

    def _leave(self) -> None:
        self._shared.discard(self)
        self._shared, self._was_forked = WeakSet((self,)), False


def relay(layers: Sequence[LayerCache], change: Relayout) -> None:
    """Move layers of one layout to another capacity."""
    if change.gather is None:
        # Entries stay in place, so a failure half-way leaves nothing but some larger buffers.
        for layer in layers:
            layer.adopt(layer.relaid(change))
            layer.place.leave(layer.buffers)
        return
    for layer, buffers in zip(layers, [x.relaid(change) for x in layers], strict=True):
        layer.adopt(buffers)
        layer.place.leave(layer.buffers)


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
