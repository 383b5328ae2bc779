"""How many bytes a cache whose slots have memory of their own may come to take."""

from __future__ import annotations

from kept.blocks import BLOCK
from kept.cache.block_layout import AHEAD, BlockLayout
from kept.cache.cache import Cache
from kept.cache.contiguous import ContiguousLayout, grown
from kept.cache.evicting import EvictingLayout
from kept.cache.layout import Layout
from kept.cache.window_blocks import most_blocks
from kept.ops.native_shape import computes_in_floats

NUMBER = 8  # bytes of an int64


def most_slot_bytes(cache: Cache, longest: int, step: int, num_heads: int) -> int:
    """Bytes of a slot of a cache like this one at most, encoder inputs left out.

    longest: tokens that its sequence comes to. step: tokens that it takes at once at most.
    num_heads: H, of the queries that an evicting cache looks at. What moving buffers takes for a
    moment is not counted.
    """
    found = 0
    own = [shape for shape in cache.shapes if shape.shares is None and not shape.cross]
    for shape, layout in zip(own, cache.layouts, strict=True):
        found += shape.num_bytes(cache.codec) * _capacity(layout, longest, step)
        if isinstance(layout, EvictingLayout):
            rule = layout.rule
            found += NUMBER * shape.num_kv_heads * rule.budget
            if rule.observes:
                width = 4 if computes_in_floats(cache.codec) else 2
                found += 4 * shape.num_kv_heads * rule.budget
                found += width * num_heads * rule.grain * shape.head_dim
    return found


def _capacity(layout: Layout, longest: int, step: int) -> int:
    """Entries that a slot comes to have at most."""
    if isinstance(layout, BlockLayout):
        return BLOCK * most_blocks(layout.window, longest + AHEAD, step, layout.sinks)
    if isinstance(layout, EvictingLayout):
        return min(grown(longest), layout.rule.budget + layout.rule.grain)
    assert isinstance(layout, ContiguousLayout)
    return layout.capacity if layout.fixed else grown(longest)
