"""Handing a cache's buffers to kernels, which write new keys and values there by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kept.cache.layer import LayerCache
from kept.cache.layout import Layout, Plan, Relayout
from kept.errors import CacheError
from kept.ops import KVCodec, LentBuffers, StepBuffers, StoredView, one_block_each


class Lease:
    """The right to add one token a step to each of `slots`, by writing to the buffers.

    stores: of the step before the first of these. room: how many tokens more the buffers take.
    lengths, layers: the cache's own lists. It ends with the next other operation on the cache.
    """

    def __init__(
        self,
        slots: tuple[int, ...],
        stores: StepBuffers,
        room: int,
        lengths: list[int],
        layers: Sequence[LayerCache],
    ) -> None:
        self.slots, self.stores, self.room = slots, stores, room
        self._lengths, self._layers, self._ended = lengths, layers, False

    def check(self) -> None:
        """Raise CacheError where it has ended."""
        if self._ended:
            raise CacheError(
                "another operation on this cache ended the lease that keys are written under; take "
                "a new one with lease(), or give each its own fork()"
            )

    def extend(self) -> None:
        """Count the token that its holder has written to each slot. Raises as `check` does."""
        self.check()
        after = list(self._lengths)
        for slot in self.slots:
            after[slot] += 1
        self._lengths[:] = after  # all of them or, where something is raised before, none

    def cancel(self) -> None:
        """End it, as another operation does."""
        self._ended = True

    def end(self) -> None:
        """End it, and zero what its holder may have written since the last `extend`."""
        if not self._ended:
            self._ended = True
            for slot in self.slots:
                length = self._lengths[slot]
                for layer in self._layers:
                    layer.clear(slot, slice(length, length + 1), length)


class Lender:
    """Knows the buffers of a cache's layers as kernels take them.

    layers, layouts: (L,) the cache's own lists.
    """

    def __init__(
        self, codec: KVCodec, layers: Sequence[LayerCache], layouts: Sequence[Layout]
    ) -> None:
        self._codec, self._layers, self._layouts = codec, layers, layouts
        self._buffers: LentBuffers | None = None

    def lend(self, plans: dict[Layout, Plan]) -> StepBuffers:
        """What a step of these plans writes to and reads. Copies buffers that a fork shares."""
        if self._buffers is None:
            self._buffers = self._gather()

        def view(layer: int) -> StoredView:
            return self._layers[layer].view(plans[self._layouts[layer]].span)

        placements = [layout.placement for layout in plans]
        tables = [one_block_each(plan.span.slots) for plan in plans.values()]
        lengths = [plan.span.lengths for plan in plans.values()]
        return StepBuffers(self._buffers, placements, tables, lengths, view)

    def can_lease(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of these lengths may take tokens without a plan: something is stored,
        and no layout labels its entries, as a ring does, or drops some."""
        layouts = dict.fromkeys(self._layouts)
        return all(lengths) and all(x.max_step(0) is None and not x.placement.ring for x in layouts)

    def lease(self, slots: tuple[int, ...], lengths: list[int], device: torch.device) -> Lease:
        """See `Cache.lease`. lengths: (all slots,) the cache's own list."""
        layouts = dict.fromkeys(self._layouts)
        before = [lengths[slot] - 1 for slot in slots]
        starts = tuple(range(len(slots) + 1))
        plans = {layout: layout.plan(starts, slots, before, device) for layout in layouts}
        room = min(layout.capacity for layout in layouts) - max(before) - 1
        return Lease(slots, self.lend(plans), room, lengths, self._layers)

    def forget(self) -> None:
        """To be called when buffers are replaced, or shared with a fork: they are kept alive."""
        self._buffers = None

    def even_out(self) -> None:
        """Bring layers that a growth which failed half-way left larger to their layout's capacity:
        kernels know one capacity."""
        for layer, layout in zip(self._layers, self._layouts, strict=True):
            if layer.capacity != layout.capacity:
                layer.adopt(layer.relaid(Relayout(layout.capacity)))

    def _gather(self) -> LentBuffers:
        for layer in self._layers:
            layer.own()
        self.even_out()
        layouts = list(dict.fromkeys(self._layouts))
        order = [layouts.index(layout) for layout in self._layouts]
        buffers = [(layer.keys, layer.values) for layer in self._layers]
        sinks = [(layer.key_sinks, layer.value_sinks) for layer in self._layers]
        return LentBuffers(self._codec, buffers, order, sinks)
