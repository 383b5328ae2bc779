"""How many bytes a cache whose slots have memory of their own may come to take."""

from __future__ import annotations

from kept.cache.cache import Cache
from kept.cache.contiguous import ContiguousLayout, grown
from kept.cache.evicting import EvictingLayout
from kept.cache.layout import Layout
from kept.cache.ring import RingLayout
from kept.ops.program import computes_in_floats

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
    rings = [layout for layout in dict.fromkeys(cache.layouts) if isinstance(layout, RingLayout)]
    return found + sum(NUMBER * _capacity(ring, longest, step) for ring in rings)


def _capacity(layout: Layout, longest: int, step: int) -> int:
    """Entries that a slot comes to have at most."""
    if isinstance(layout, RingLayout):
        widest = max(layout.full, layout.sinks + layout.window - 1 + step)
        needed = min(longest, widest)
        return min(grown(needed), max(layout.full, needed))
    if isinstance(layout, EvictingLayout):
        return min(grown(longest), layout.rule.budget + layout.rule.grain)
    assert isinstance(layout, ContiguousLayout), "what lies in blocks is counted by them"
    return layout.capacity if layout.fixed else grown(longest)
