"""One layer's stored keys and values: their buffers, and the operations that move their slots.

A layer is replaced rather than changed by what can fail or be interrupted half way, so that a cache
takes on the new buffers of all its layers at once, see `state.py`. What is written in place is
either beyond the tokens that are held, or may be written again until it is done (`Write`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Self
from weakref import WeakSet

import torch
from torch import Tensor

from kept.cache.in_keys import check_first_numbers
from kept.cache.layout import Layout, Writes, lasting
from kept.cache.place import Buffers, Place
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import (
    Codec,
    ContiguousView,
    KVCodec,
    Span,
    StoredView,
    encode_heads,
    plain_torch,
)

Entries = slice | list[int]
Moves = tuple[Entries, Entries]  # entries of one slot, and which they become
Write = Callable[[], None]  # into buffers; as good done twice as once


class LayerCache:
    """Keys and values of one layer, as their codecs store them.

    keys, values: a buffer for each part of their codec, (slots, G, capacity, width) each; codes and
    scales move alike. Forks share their buffers until one of them is to write, which then goes on
    with what `owned()` gives it.
    """

    def __init__(
        self, shape: KVShape, num_slots: int, capacity: int, codec: KVCodec, place: Place
    ) -> None:
        self.codec, self.num_kv_heads = codec, shape.num_kv_heads
        self.head_dim, self.value_dim = shape.head_dim, shape.value_width
        self.values_in_keys = shape.values_in_keys
        self.place = place
        size = (num_slots, shape.num_kv_heads, capacity)

        # Zeros: attention multiplies masked entries by zero, which must not meet a stray NaN.
        def empty(of: Codec, width: int) -> Buffers:
            return tuple(place.zeros((*size, part.width), part.dtype) for part in of.parts(width))

        widths = self.head_dim, shape.stored_value_width
        with lasting():
            self.keys, self.values = map(empty, (codec.keys, codec.values), widths)
        self._shared, self._was_forked = WeakSet((self,)), False

    @plain_torch()
    def append(self, k: Tensor, v: Tensor, writes: Writes, span: Span) -> StoredView:
        """Store the packed keys and values (N, G, D) of a step; returns all that attention reads.

        Mutates the buffers, which must not be shared, not the lengths. What is stored carries no
        gradient. Raises CacheError for another shape, and for values that are not in the keys where
        they ought to be.
        """
        rows = span.starts[-1], self.num_kv_heads
        if k.shape != (*rows, self.head_dim) or v.shape != (*rows, self.value_dim):
            raise CacheError(
                f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit this layer, which "
                f"takes (rows, heads, head) = {(*rows, self.head_dim)} and "
                f"{(*rows, self.value_dim)}; make the cache from model.kv_shapes"
            )
        assert not self.is_shared, "a step begins with buffers of its own"
        codec = self.codec
        parts = list(encode_heads(codec.keys, k.detach()))
        if self.values_in_keys:
            check_first_numbers(k, v)
        else:
            parts += encode_heads(codec.values, v.detach())
        for buffer, part in zip(self.keys + self.values, parts, strict=True):
            _write(buffer, part, writes)
        return self.view(span)

    @property
    def stored_value_width(self) -> int:
        """See `KVShape.stored_value_width`."""
        return 0 if self.values_in_keys else self.value_dim

    def view(self, span: Span) -> StoredView:
        """What a step of this span reads."""
        return ContiguousView(
            span, self.codec, self.head_dim, self.keys, self.values, value_dim=self.value_dim
        )

    def read(self, slot: int, entries: list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values (G, S, D) of a slot's entries, decoded."""

        def decoded(of: Codec, buffers: Buffers, width: int) -> Tensor:
            found = of.read([self.taken(x, slot, entries) for x in buffers], width)
            return of.turned(found).to(self.codec.dtype)

        keys = decoded(self.codec.keys, self.keys, self.head_dim)
        if self.values_in_keys:
            return keys, keys[..., : self.value_dim]
        values = decoded(self.codec.values, self.values, self.value_dim)
        return keys, values

    def _with(self, buffers: Buffers) -> Self:
        """A layer with other buffers, as `buffers` orders them, that nobody shares."""
        twin, rest = copy(self), iter(buffers)
        twin._shared, twin._was_forked = WeakSet((twin,)), False
        twin.keys = tuple(next(rest) for _ in self.keys)
        twin.values = tuple(next(rest) for _ in self.values)
        return twin

    def relaid(self, capacity: int) -> Self:
        """At another capacity, in buffers of its own."""
        with lasting():
            return self._with(tuple(self._relaid(x, capacity) for x in self.buffers))

    def selected(self, indices: Sequence[int]) -> Self:
        """Slot i a copy of what slot indices[i] is, in buffers of its own."""
        order = torch.tensor(list(indices), dtype=torch.int64, device=self.keys[0].device)
        with lasting():
            room = room_for(self, len(order))
            pairs = zip(self.buffers, room, strict=True)
            return self._with(tuple(torch.index_select(x, 0, order, out=new) for x, new in pairs))

    def reordered(self, indices: Sequence[int]) -> Self:
        """What `selected` gives once `Reordering` has moved the slots of the same buffers."""
        return self

    def take(self, begin: int, source: LayerCache, moves: Sequence[Moves]) -> None:
        """Copy what another layer holds to slots from `begin` on. moves: of its slots."""
        for into, x in zip(self.buffers, source.buffers, strict=True):
            for slot, (old, new) in enumerate(moves):
                self.put(into, begin + slot, new, source.taken(x, slot, old))

    def taken(self, buffer: Tensor, slot: int, entries: Entries) -> Tensor:
        """(G, S, width) entries of a slot in one of the buffers, as its layout numbers them."""
        return buffer[slot][:, entries]

    def put(self, buffer: Tensor, slot: int, entries: Entries, rows: Tensor) -> None:
        """Write rows (G, S, width) to entries of a slot in one of the buffers."""
        buffer[slot][:, entries] = rows

    def clear(self, slot: int, entries: slice | list[int]) -> None:
        """Zero entries of a slot."""
        for buffer in self.buffers:
            buffer[slot, :, entries] = 0

    def erase(self, writes: Writes) -> None:
        """Zero what `append` stored at `writes`."""
        for buffer in self.buffers:
            if writes.run is not None:
                slot, count, entry, num_new = writes.run
                buffer[slot : slot + count, :, entry : entry + num_new] = 0
            else:
                slots, entries = writes.rows
                buffer[slots, :, entries] = 0

    @property
    def zeroes(self) -> bool:
        """Whether entries that hold nothing are to be zero, as attention multiplies them by it."""
        return True

    def fork(self) -> Self:
        """A copy that shares this layer's buffers until either is to be written to."""
        self._was_forked = True
        twin = copy(self)
        self._shared.add(twin)
        return twin

    def owned(self) -> Self:
        """A layer that may be written to: this one, or one with copies if a fork shares its
        buffers."""
        return self.cloned() if self.is_shared else self

    def cloned(self) -> Self:
        """With copies of all buffers."""
        with lasting():
            return self._with(tuple(map(self.place.clone, self.buffers)))

    @property
    def is_shared(self) -> bool:
        """Whether a fork has the same buffers."""
        return self._was_forked and len(self._shared) > 1

    @property
    def buffers(self) -> Buffers:
        """All buffers: of keys and of values."""
        return self.keys + self.values

    @property
    def num_slots(self) -> int:
        """How many sequences the buffers have room for."""
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """Entries of each slot."""
        return self.keys[0].shape[2]

    def num_bytes(self, layout: Layout) -> int:
        """Bytes of the buffers, or of what the layout says is in use of them where many share
        them."""
        return sum(x.nbytes for x in self.buffers)

    @property
    def generation(self) -> int:
        """How often the buffers have moved since there is this layer."""
        return 0

    def _relaid(self, buffer: Tensor, capacity: int) -> Tensor:
        slots, heads, before, width = buffer.shape
        new = self.place.zeros((slots, heads, capacity, width), buffer.dtype)
        # A growth that failed half-way leaves some buffers larger than the layout's capacity.
        kept = min(before, capacity)
        new[:, :, :kept] = buffer[:, :, :kept]
        return new


def room_for(layer: LayerCache, num_slots: int) -> Buffers:
    """Buffers like a layer's, of other slots, in its place."""
    with lasting():
        return tuple(layer.place.zeros((num_slots, *x.shape[1:]), x.dtype) for x in layer.buffers)


class Reordering:
    """A `Write` that moves slots within the buffers of several layers, one after the other.

    What a layer's slots are to hold is first copied to room that was made before, the same for all
    layers alike. Wherever it is interrupted, the next call goes on from there.
    """

    def __init__(self, layers: Sequence[LayerCache], order: Sequence[int]) -> None:
        """Raises CacheFullError where there is no room for a layer's slots that move."""
        moved = [slot for slot, source in enumerate(order) if source != slot]
        rooms: dict[object, Buffers] = {}
        self._layers = []
        for layer in layers:
            alike = tuple((x.shape[1:], x.dtype) for x in layer.buffers)
            if alike not in rooms:
                rooms[alike] = room_for(layer, len(moved))
            self._layers.append((layer, rooms[alike]))
        device = layers[0].keys[0].device if layers else None
        self._into = moved
        self._from = torch.tensor([order[i] for i in moved], dtype=torch.int64, device=device)
        self._at = 0, False  # which layer is next, and whether its slots are in the room already

    def __call__(self) -> None:
        """Move whatever is not moved yet."""
        for index in range(self._at[0], len(self._layers)):
            layer, room = self._layers[index]
            if not self._at[1]:
                for buffer, rows in zip(layer.buffers, room, strict=True):
                    torch.index_select(buffer, 0, self._from, out=rows)
                self._at = index, True
            for buffer, rows in zip(layer.buffers, room, strict=True):
                for slot, row in zip(self._into, rows, strict=True):
                    buffer[slot].copy_(row)
            self._at = index + 1, False
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
    slots, entries = writes.rows
    buffer[slots, :, entries] = x.to(buffer.dtype)
