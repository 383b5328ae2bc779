"""One layer of an evicting cache: its buffers, which tokens they hold, and how tokens leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.cache.evicting import EvictingLayout
from kept.cache.layer import LayerCache, Moves
from kept.cache.layout import Layout, lasting
from kept.cache.place import Buffers, Place
from kept.cache.policy import Entries
from kept.cache.ring import RingLayout
from kept.cache.shape import KVShape
from kept.ops import KVCodec


@dataclass(frozen=True, slots=True)
class Eviction:
    """What a slot of a layer comes to hold: its buffers' entries (G, budget, width), and which
    token each is (G, budget)."""

    slot: int
    buffers: Buffers
    held: Tensor


class EvictingLayer(LayerCache):
    """Keys and values of one layer, and which tokens they are of.

    held: (slots, G, budget) int64, which token each of the first `budget` entries holds since the
    last eviction; of a sequence that has had none it says nothing.
    """

    def __init__(
        self, shape: KVShape, layout: EvictingLayout, codec: KVCodec, place: Place
    ) -> None:
        super().__init__(shape, layout.num_slots, layout.capacity, codec, place)
        self.rule = layout.rule
        size = (layout.num_slots, shape.num_kv_heads, layout.rule.budget)
        with lasting():
            self.held = torch.zeros(size, dtype=torch.int64, device=self.keys[0].device)

    def tokens(self, slot: int, length: int) -> Tensor:
        """(G, S) int64, which tokens a slot of so many read ones holds, oldest first."""
        last = self.rule.last(length)
        new = torch.arange(last, length, device=self.held.device).expand(self.num_kv_heads, -1)
        return torch.cat((self.held[slot], new), dim=1) if last else new.clone()

    def choose(self, slot: int, length: int) -> Eviction:
        """What is to stay of a slot that has come to `length` tokens; mutates nothing."""
        rule = self.rule
        # As it is before tokens leave: `length` itself counts as the place where they have left.
        stored = rule.num_stored(length - 1) + 1
        tokens = self.tokens(slot, length - 1)
        tokens = torch.cat((tokens, torch.full_like(tokens[:, :1], length - 1)), dim=1)
        keys, _ = self.read(slot, list(range(stored)), 0)
        keep = rule.policy.keep(Entries(keys, tokens), rule.budget)
        buffers = tuple(x[slot].take_along_dim(keep[..., None], dim=1) for x in self.buffers)
        return Eviction(slot, buffers, tokens.gather(1, keep))

    def evict(self, chosen: Eviction) -> None:
        """Let a slot hold what was chosen of it, and nothing else."""
        self.own()
        budget = self.rule.budget
        for buffer, entries in zip(self.buffers, chosen.buffers, strict=True):
            buffer[chosen.slot, :, :budget] = entries
            buffer[chosen.slot, :, budget:] = 0
        self.held[chosen.slot] = chosen.held

    def select(self, indices: Sequence[int]) -> None:
        """See `LayerCache.select`."""
        super().select(indices)
        order = torch.tensor(list(indices), dtype=torch.int64, device=self.held.device)
        with lasting():
            self.held = self.held[order]

    def take(
        self, begin: int, source: LayerCache, moves: Sequence[Moves], lengths: Sequence[int]
    ) -> None:
        """See `LayerCache.take`."""
        assert isinstance(source, EvictingLayer)
        super().take(begin, source, moves, lengths)
        self.held[begin : begin + source.num_slots] = source.held

    def fork(self) -> EvictingLayer:
        """See `LayerCache.fork`; which tokens are held is copied at once."""
        twin = EvictingLayer.__new__(EvictingLayer)
        self._share(twin)
        twin.rule = self.rule
        with lasting():
            twin.held = self.held.clone()
        return twin

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers, and of what says which tokens they hold."""
        return super().num_bytes + self.held.nbytes


def make_layer(
    shape: KVShape, layout: Layout, codec: KVCodec, place: Place, unquantized_sinks: int
) -> LayerCache:
    """The buffers of one layer, as its layout needs them."""
    if isinstance(layout, EvictingLayout):
        return EvictingLayer(shape, layout, codec, place)
    size = layout.num_slots, layout.capacity
    return LayerCache(shape, *size, codec, place, unquantized_sinks)


def choose_all(
    layers: Sequence[LayerCache],
    slots: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
) -> list[tuple[EvictingLayer, Eviction]]:
    """What layers come to hold of the sequences that have just come to an eviction.

    before, after: (B,) tokens of each without and with a step's. Mutates nothing.
    """
    return [
        (layer, layer.choose(slot, length))
        for layer in layers
        if isinstance(layer, EvictingLayer)
        for slot, begin, length in zip(slots, before, after, strict=True)
        if layer.rule.last(length) == length > begin
    ]


def tokens_of(layout: Layout, layer: LayerCache, slot: int, length: int) -> Tensor:
    """(G, S) int64, which of a slot's `length` tokens a layer holds, oldest first."""
    if isinstance(layer, EvictingLayer):
        return layer.tokens(slot, length)
    tokens = torch.arange(length)
    if isinstance(layout, RingLayout):
        tokens = layout.held[slot][layout.held[slot] >= 0].sort().values
    return tokens.expand(layer.num_kv_heads, -1).clone()
