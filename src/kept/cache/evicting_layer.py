"""One layer of an evicting cache: its buffers, what its policy notes, and how tokens leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.cache.evicting import EvictingLayout
from kept.cache.layer import Buffers, LayerCache
from kept.cache.layout import Layout, lasting
from kept.cache.open_step import OpenStep
from kept.cache.policy import Entries, attention_paid
from kept.cache.ring import RingLayout
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import AttentionSpec, Codec


@dataclass(frozen=True, slots=True)
class Eviction:
    """What a slot of a layer comes to hold: its buffers' entries (G, budget, width), which token
    each is (G, budget), and what attention these have been paid, if that counts."""

    slot: int
    buffers: Buffers
    held: Tensor
    attention: Tensor | None


class EvictingLayer(LayerCache):
    """Keys and values of one layer, and what its policy has to know of them.

    held: (slots, G, budget) int64, which token each of the first `budget` entries holds since the
    last eviction; attention: the same in fp32, what they have been paid by then. queries: (slots,
    grain, H, D) fp32, of token t in row t % grain; None before the first is seen, or where the
    score reads none.
    """

    def __init__(
        self, shape: KVShape, layout: EvictingLayout, codec: Codec, device: torch.device
    ) -> None:
        super().__init__(shape, layout.num_slots, layout.capacity, codec, device)
        self.rule = layout.rule
        size = (layout.num_slots, shape.num_kv_heads, layout.rule.budget)
        with lasting():
            self.held = torch.zeros(size, dtype=torch.int64, device=device)
            self.attention = torch.zeros(size, device=device) if self.rule.observes else None
        self.queries: Tensor | None = None
        self._spec: AttentionSpec | None = None

    def needs(self, lengths: Sequence[int]) -> bool:
        """Whether a step that brings its sequences to `lengths` has to be observed."""
        return self.rule.observes and max(lengths) > self.rule.first_observed

    def observe(
        self,
        q: Tensor,
        spec: AttentionSpec,
        starts: Sequence[int],
        slots: Sequence[int],
        lengths: Sequence[int],
    ) -> None:
        """Note a step's queries (N, H, D). lengths: (B,) before the step. Mutates `queries`."""
        grain = self.rule.grain
        if self.queries is None:
            with lasting():
                size = (self.num_slots, grain, *q.shape[1:])
                self.queries = torch.zeros(size, device=self.held.device)
        self._spec = spec
        for start, end, slot, length in zip(starts, starts[1:], slots, lengths, strict=False):
            after = length + end - start
            first = max(length, after - grain, self.rule.first_observed)
            if first < after:
                rows = torch.arange(first, after, device=q.device) % grain
                self.queries[slot, rows] = q[end - (after - first) : end].detach().float()

    def tokens(self, slot: int, length: int) -> Tensor:
        """(G, S) int64, which tokens a slot of so many read ones holds, oldest first."""
        last = self.rule.last(length)
        new = torch.arange(last, length, device=self.held.device).expand(self.num_kv_heads, -1)
        return torch.cat((self.held[slot], new), dim=1) if last else new.clone()

    def choose(self, slot: int, length: int) -> Eviction:
        """What is to stay of a slot that has come to `length` tokens; mutates nothing."""
        rule = self.rule
        # As it is before tokens leave: `length` itself counts as the place where they have left.
        last = rule.last(length - 1)
        stored = rule.num_stored(length - 1) + 1
        tokens = self.tokens(slot, length - 1)
        tokens = torch.cat((tokens, torch.full_like(tokens[:, :1], length - 1)), dim=1)
        keys, _ = self.read(slot, slice(0, stored))
        attention = self._attention(slot, length, keys, last)
        keep = rule.policy.keep(Entries(keys, tokens, attention), rule.budget)
        buffers = tuple(x[slot].take_along_dim(keep[..., None], dim=1) for x in self.buffers)
        return Eviction(
            slot,
            buffers,
            tokens.gather(1, keep),
            None if attention is None else attention.gather(1, keep),
        )

    def evict(self, chosen: Eviction) -> None:
        """Let a slot hold what was chosen of it, and nothing else."""
        self.own()
        budget = self.rule.budget
        for buffer, entries in zip(self.buffers, chosen.buffers, strict=True):
            buffer[chosen.slot, :, :budget] = entries
            buffer[chosen.slot, :, budget:] = 0
        self.held[chosen.slot] = chosen.held
        if self.attention is not None and chosen.attention is not None:
            self.attention[chosen.slot] = chosen.attention

    def select(self, indices: Sequence[int]) -> None:
        """See `LayerCache.select`."""
        super().select(indices)
        order = torch.tensor(list(indices), dtype=torch.int64, device=self.held.device)
        with lasting():
            self.held = self.held[order]
            self.attention = None if self.attention is None else self.attention[order]
            self.queries = None if self.queries is None else self.queries[order]

    def fork(self) -> EvictingLayer:
        """See `LayerCache.fork`; what the policy notes is copied at once."""
        twin = EvictingLayer.__new__(EvictingLayer)
        self._share(twin)
        twin.rule, twin._spec = self.rule, self._spec
        with lasting():
            twin.held = self.held.clone()
            twin.attention = None if self.attention is None else self.attention.clone()
            twin.queries = None if self.queries is None else self.queries.clone()
        return twin

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers, and of what the policy notes."""
        notes = (self.held, self.attention, self.queries)
        return super().num_bytes + sum(x.nbytes for x in notes if x is not None)

    def _attention(self, slot: int, length: int, keys: Tensor, last: int) -> Tensor | None:
        if self.attention is None:
            return None
        assert self.queries is not None
        assert self._spec is not None
        decay = self.rule.policy.scored_by.decay
        assert decay is not None
        # Rows lie in the order of their tokens, since the last of them ends at a multiple of grain.
        paid = attention_paid(self.queries[slot], keys, self._spec)
        if last:
            paid[:, : self.rule.budget] += decay * self.attention[slot]
        return paid


def make_layer(shape: KVShape, layout: Layout, codec: Codec, device: torch.device) -> LayerCache:
    """The buffers of one layer, as its layout needs them."""
    if isinstance(layout, EvictingLayout):
        return EvictingLayer(shape, layout, codec, device)
    return LayerCache(shape, layout.num_slots, layout.capacity, codec, device)


def check_observed(layers: Sequence[LayerCache], step: OpenStep) -> None:
    """Raise CacheError where a layer was not shown the queries that its policy reads."""
    for index, layer in enumerate(layers):
        missed = isinstance(layer, EvictingLayer) and layer.needs(step.after)
        if missed and index not in step.observed:
            raise CacheError(
                f"layer {index} chooses what to drop by attention and was shown no queries; call "
                "LayerStore.observe(q, spec) in each layer, or use a policy that reads keys alone"
            )


def choose_all(
    layers: Sequence[LayerCache],
    slots: Sequence[int],
    lengths: Sequence[int],
    before: Sequence[int] | None = None,
) -> list[tuple[EvictingLayer, Eviction]]:
    """What layers come to hold of the sequences that have just come to an eviction.

    lengths: (B,) tokens of each; before: what they were before the step, None: one less. Mutates
    nothing.
    """
    return [
        (layer, layer.choose(slot, length))
        for layer in layers
        if isinstance(layer, EvictingLayer)
        for i, (slot, length) in enumerate(zip(slots, lengths, strict=True))
        if layer.rule.last(length) == length > (length - 1 if before is None else before[i])
    ]


def tokens_of(layout: Layout, layer: LayerCache, slot: int, length: int) -> Tensor:
    """(G, S) int64, which of a slot's `length` tokens a layer holds, oldest first."""
    if isinstance(layer, EvictingLayer):
        return layer.tokens(slot, length)
    tokens = torch.arange(length)
    if isinstance(layout, RingLayout):
        tokens = layout.held[slot][layout.held[slot] >= 0].sort().values
    return tokens.expand(layer.num_kv_heads, -1).clone()
