"""Handing a cache's buffers to kernels, which write new keys and values there by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kept.cache.layer import LayerCache
from kept.cache.layout import Layout, Plan, Relayout
from kept.cache.open_step import Watch
from kept.ops import Codec, LentBuffers, StepBuffers, StoredView

_NONE: Mapping[int, Watch] = MappingProxyType({})


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
        self, codec: Codec, layers: Sequence[LayerCache], layouts: Sequence[Layout]
    ) -> None:
        self._codec, self._layers, self._layouts = codec, layers, layouts
        self._buffers: LentBuffers | None = None

    def lend(self, plans: dict[Layout, Plan], watches: Mapping[int, Watch] = _NONE) -> StepBuffers:
        """What a step of these plans writes to and reads. Copies buffers that a fork shares.

        watches: of the layers that are to be shown their queries.
        """
        if self._buffers is None:
            self._buffers = self._gather()

        def view(layer: int) -> StoredView:
            return self._layers[layer].view(plans[self._layouts[layer]].span)

        placements = [layout.placement for layout in plans]
        lengths = [list(plan.span.lengths) for plan in plans.values()]
        return StepBuffers(self._buffers, placements, lengths, view, watches)

    def forget(self) -> None:
        """To be called when buffers are replaced, or shared with a fork: they are kept alive."""
        self._buffers = None

    def _gather(self) -> LentBuffers:
        for layer, layout in zip(self._layers, self._layouts, strict=True):
            layer.own()
            # Growth that failed half-way leaves layers larger; kernels know one capacity.
            if layer.capacity != layout.capacity:
                layer.adopt(layer.relaid(Relayout(layout.capacity)))
        layouts = list(dict.fromkeys(self._layouts))
        order = [layouts.index(layout) for layout in self._layouts]
        buffers = [(layer.keys, layer.values) for layer in self._layers]
        return LentBuffers(self._codec, buffers, order)
