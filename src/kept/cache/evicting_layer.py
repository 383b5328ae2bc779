"""One layer of an evicting cache: its buffers, which tokens they hold, and how tokens leave."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kept.cache.block_layout import BlockLayout
from kept.cache.evicting import EvictingLayout
from kept.cache.layer import LayerCache, Moves
from kept.cache.layout import Layout, lasting
from kept.cache.observer import Observer
from kept.cache.open_step import not_shown
from kept.cache.place import Buffers, Place
from kept.cache.policy import Entries
from kept.cache.shape import KVShape
from kept.ops import KVCodec, one_torch_thread
from kept.ops.native_shape import computes_in_floats


@dataclass(frozen=True, slots=True)
class Eviction:
    """What a slot of a layer comes to hold: its buffers' entries (G, S, width), which token each is
    (G, S), and what it has received (G, S), where that is looked at. buffers: None where nothing
    leaves yet."""

    slot: int
    buffers: Buffers | None
    held: Tensor
    received: Tensor | None


class EvictingLayer(LayerCache):
    """Keys and values of one layer, and which tokens they are of.

    held: (slots, G, budget) int64, which token each of the first `budget` entries holds since the
    last eviction; of a sequence that has had none it says nothing. observer: of the layer's
    queries, None where the score does not look at them.
    """

    def __init__(
        self, shape: KVShape, layout: EvictingLayout, codec: KVCodec, place: Place
    ) -> None:
        super().__init__(shape, layout.num_slots, layout.capacity, codec, place)
        self.rule = layout.rule
        size = (layout.num_slots, shape.num_kv_heads, layout.rule.budget)
        device = self.keys[0].device
        with lasting():
            self.held = place.zeros(size, torch.int64)
        self.observer: Observer | None = None
        if self.rule.observes:
            # Kernels round the queries to bf16 where they do not compute in floats.
            dtype = torch.float32 if computes_in_floats(codec) else torch.bfloat16
            self.observer = Observer(self.rule.grain, (*size, shape.head_dim), dtype, device)

    def tokens(self, slot: int, length: int) -> Tensor:
        """(G, S) int64, which tokens a slot of so many read ones holds, oldest first."""
        last = self.rule.last(length)
        new = torch.arange(last, length, dtype=torch.int64, device=self.held.device)
        new = new.expand(self.num_kv_heads, -1)
        return torch.cat((self.held[slot], new), dim=1) if last else new.clone()

    def is_due(self, length: int) -> bool:
        """Whether a slot that has come to so many tokens drops some, or adds up what they
        received."""
        if self.rule.policy.scored_by.looks_at == "received":
            return self.rule.last_stop(length) == length
        return self.rule.last(length) == length

    def choose(self, slot: int, length: int) -> Eviction:
        """What is to stay of a slot that has come to `length` tokens; mutates nothing."""
        rule = self.rule
        # As it is before tokens leave: `length` itself counts as the place where they have left.
        tokens = self.tokens(slot, length - 1)
        tokens = torch.cat((tokens, torch.full_like(tokens[:, :1], length - 1)), dim=1)
        with one_torch_thread():  # so that how many there are decides no order of summation
            entries = self._entries(slot, tokens, length)
            if rule.last(length) != length:
                return Eviction(slot, None, tokens, entries.received)
            keep = rule.policy.keep(entries, rule.budget)
        buffers = tuple(self._kept(x[slot], keep) for x in self.buffers)
        received = None if entries.received is None else entries.received.gather(1, keep)
        return Eviction(slot, buffers, tokens.gather(1, keep), received)

    def _kept(self, buffer: Tensor, keep: Tensor) -> Tensor:  # (G, capacity, width), (G, S)
        heads, count = keep.shape
        with lasting():
            room = self.place.zeros((heads, count, buffer.shape[2]), buffer.dtype)
            return torch.take_along_dim(buffer, keep[..., None], 1, out=room)

    def _entries(self, slot: int, tokens: Tensor, length: int) -> Entries:
        keys, values = self.read(slot, list(range(tokens.shape[1])))
        if self.observer is None:
            return Entries(keys, values, tokens)
        observed, received = self.observer.observed(slot), None
        if self.rule.policy.scored_by.looks_at == "received":
            received = self.observer.total(slot, observed, keys, length)
        return Entries(keys, values, tokens, observed, received)

    def evict(self, chosen: Eviction) -> None:
        """Let a slot hold what was chosen of it, and nothing else; as good done twice as once."""
        slot, count = chosen.slot, chosen.held.shape[1]
        if self.observer is not None and chosen.received is not None:
            self.observer.received[slot, :, :count] = chosen.received
        if chosen.buffers is None:
            return
        for buffer, entries in zip(self.buffers, chosen.buffers, strict=True):
            buffer[slot, :, :count] = entries
            buffer[slot, :, count:] = 0
        self.held[slot] = chosen.held

    def selected(self, indices: Sequence[int]) -> Self:
        """See `LayerCache.selected`."""
        return self._labelled(super().selected(indices), indices)

    def reordered(self, indices: Sequence[int]) -> Self:
        """See `LayerCache.reordered`."""
        return self._labelled(self._with(self.buffers), indices)

    def _labelled(self, found: Self, indices: Sequence[int]) -> Self:
        """Let a layer with other slots have what is held of them beside the buffers."""
        order = torch.tensor(list(indices), dtype=torch.int64, device=self.held.device)
        with lasting():
            room = self.place.zeros((len(order), *self.held.shape[1:]), torch.int64)
            found.held = torch.index_select(self.held, 0, order, out=room)
        found.observer = None if self.observer is None else self.observer.selected(order)
        return found

    def take(self, begin: int, source: LayerCache, moves: Sequence[Moves]) -> None:
        """See `LayerCache.take`."""
        assert isinstance(source, EvictingLayer)
        super().take(begin, source, moves)
        self.held[begin : begin + source.num_slots] = source.held
        if self.observer is not None and source.observer is not None:
            self.observer.take(begin, source.observer)

    def fork(self) -> Self:
        """See `LayerCache.fork`; which tokens are held is copied at once."""
        return self._apart(super().fork())

    def cloned(self) -> Self:
        """See `LayerCache.cloned`."""
        return self._apart(super().cloned())

    def _apart(self, twin: Self) -> Self:
        """Let a copy of this layer have its own of what is written in place."""
        twin.observer = None if self.observer is None else self.observer.fork()
        with lasting():
            twin.held = self.place.clone(self.held)
        return twin

    def num_bytes(self, layout: Layout) -> int:
        """Bytes of the buffers, of what says which tokens they hold, and of queries."""
        beside = 0 if self.observer is None else self.observer.num_bytes
        return super().num_bytes(layout) + self.held.nbytes + beside


def observer_of(layer: LayerCache) -> Observer | None:
    """What looks at the queries of a layer, if its tokens leave by attention."""
    return layer.observer if isinstance(layer, EvictingLayer) else None


def check_seen(layers: Sequence[LayerCache], seen: Container[int]) -> None:
    """Raise CacheError where a layer that looks at queries is not among those that have seen a
    step's."""
    for index, layer in enumerate(layers):
        if isinstance(layer, EvictingLayer) and layer.observer and index not in seen:
            raise not_shown(index, layer.rule.policy.scored_by.name)


def choose_all(
    layers: Sequence[LayerCache],
    slots: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
) -> list[tuple[EvictingLayer, Eviction]]:
    """What layers come to hold of the sequences that have just come to an eviction, or to a place
    where queries are looked at.

    before, after: (B,) tokens of each without and with a step's. Mutates nothing.
    """
    return [
        (layer, layer.choose(slot, length))
        for layer in layers
        if isinstance(layer, EvictingLayer)
        for slot, begin, length in zip(slots, before, after, strict=True)
        if length > begin and layer.is_due(length)
    ]


def tokens_of(layout: Layout, layer: LayerCache, slot: int, length: int) -> Tensor:
    """(G, S) int64, which of a slot's `length` tokens a layer holds, oldest first."""
    if isinstance(layer, EvictingLayer):
        return layer.tokens(slot, length)
    tokens = torch.arange(length, dtype=torch.int64, device="cpu")
    if isinstance(layout, BlockLayout):
        gone = layout.tables[slot].gone
        tokens = torch.cat((tokens[: gone.start], tokens[gone.stop :]))
    return tokens.expand(layer.num_kv_heads, -1).clone()
