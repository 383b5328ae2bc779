"""Handing a cache's buffers to kernels, which write new keys and values there by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kept.cache.layer import LayerCache
from kept.cache.layout import Layout, Plan, Relayout
from kept.errors import CacheError
from kept.ops import KVCodec, LentBuffers, StepBuffers, StoredView


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """The right to add one token a step to each of `slots`, by writing to the buffers.

    stores: of the step before the first of these. room: how many tokens more the buffers take. It
    ends with the next operation on the cache that is not `Cache.extend`.
    """

    slots: tuple[int, ...]
    stores: StepBuffers
    room: int


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
        """What a step of these plans writes to and reads. Copies buffers that a fork shares.

        Raises CacheError where layers come to hold different numbers of tokens: kernels know one.
        """
        if len(plans) > 1 and any(layout.max_step(0) is not None for layout in plans):
            raise CacheError(
                "an evicting cache of a model some of whose layers have a window of their own "
                "holds different numbers of tokens in different layers, which native kernels do "
                "not read; set KEPT_OPS=reference, or use the sliding cache"
            )
        if self._buffers is None:
            self._buffers = self._gather()

        def view(layer: int) -> StoredView:
            return self._layers[layer].view(plans[self._layouts[layer]].span)

        placements = [layout.placement for layout in plans]
        return StepBuffers(self._buffers, placements, next(iter(plans.values())).span.lengths, view)

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
