"""The buffers of one layer, as its layout needs them."""

from __future__ import annotations

from collections.abc import Sequence

from kept.cache.block_layer import BlockLayer
from kept.cache.block_layout import BlockLayout
from kept.cache.evicting import EvictingLayout
from kept.cache.evicting_layer import EvictingLayer
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout
from kept.cache.place import Place
from kept.cache.shape import KVShape
from kept.ops import KVCodec


def make_layer(shape: KVShape, layout: Layout, codec: KVCodec, place: Place) -> LayerCache:
    """The buffers of one layer that does not lie in blocks."""
    if isinstance(layout, EvictingLayout):
        return EvictingLayer(shape, layout, codec, place)
    return LayerCache(shape, layout.num_slots, layout.capacity, codec, place)


def make_layers(
    shapes: Sequence[KVShape], layouts: Sequence[Layout], codec: KVCodec, place: Place
) -> list[LayerCache]:
    """The buffers of the layers that store, of a layout each."""
    made: list[LayerCache] = []
    for index, (shape, layout) in enumerate(zip(shapes, layouts, strict=True)):
        if isinstance(layout, BlockLayout):
            number = sum(other is layout for other in layouts[:index])
            made.append(BlockLayer(shape, layout.memory, number, codec, place))
        else:
            made.append(make_layer(shape, layout, codec, place))
    return made
