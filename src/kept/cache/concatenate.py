"""Several caches made one, which has the slots of all, end to end.

    slots 0 1 | 0 1 2   ->   0 1 2 3 4

What was computed by itself can then be stepped as one batch. Only tokens that are held are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate, chain
from typing import TypeVar

from kept.cache.block_layout import BlockLayout
from kept.cache.contiguous import ContiguousLayout, grown
from kept.cache.encoded_input import EncodedInput, moved
from kept.cache.layer import Moves
from kept.cache.layout import Layout
from kept.cache.reading import Readable
from kept.errors import CacheError, OptionError
from kept.ops import plain_torch

SomeCache = TypeVar("SomeCache", bound=Readable)


@plain_torch()
def concatenate(caches: Sequence[SomeCache]) -> SomeCache:
    """A cache with the slots of all, in their order.

    The caches keep what they hold and share nothing with the new one but what nobody writes to:
    encoder inputs, and blocks of tokens with those that share the first one's memory. A step in
    progress on one of them is no part of it. The new one lies in the first one's place, and takes
    the largest capacity of each layer. The same cache may be given more than once.

    Raises OptionError for no cache at all or something else than one, CacheError where shapes,
    codecs, devices or layouts (windows, sinks, a static length, a budget and its
    policy) differ, and CacheFullError where its place has no room.
    """
    if isinstance(caches, Readable) or not isinstance(caches, Sequence) or not caches:
        raise OptionError(f"concatenate takes a list of caches, at least one, not {caches!r:.100}")
    for index, cache in enumerate(caches):
        if not isinstance(cache, Readable):
            raise OptionError(f"{cache!r:.100}, number {index} to concatenate, is no cache")
        _check(index, cache, caches[0])
    first = caches[0]
    distinct = [list(dict.fromkeys(cache.layouts)) for cache in caches]
    joined: dict[Layout, Layout] = {}
    moves: dict[Layout, list[list[Moves] | None]] = {}
    lengths = [cache.lengths for cache in caches]
    for layout, layouts in zip(distinct[0], zip(*distinct, strict=True), strict=True):
        if isinstance(layout, BlockLayout):
            joined[layout], moves[layout] = _in_blocks(layout, layouts, lengths)
            continue
        runs = [_in_runs(x, of) for x, of in zip(layouts, lengths, strict=True)]
        capacity = max(x.capacity for x in runs)
        wide = [x.relaid(capacity) for x in runs]
        joined[layout] = reduce(lambda one, other: one.joined(other), wide[1:], wide[0])
        moves[layout] = [_moves(*each) for each in zip(layouts, runs, lengths, strict=True)]
    found = type(first)(
        first.shapes,
        [joined[layout] for layout in first.layouts],
        first.codec,
        first.device,
        first.name,
        [*chain.from_iterable(lengths)],
        first.place,
    )
    found.cross.of = _inputs(caches)
    begins = [0, *accumulate(cache.num_slots for cache in caches)]
    for index, (layer, layout) in enumerate(zip(found.layers, first.layouts, strict=True)):
        for begin, cache, of in zip(begins, caches, moves[layout], strict=False):
            source = cache.layers[index]
            if of is not None:
                layer.take(begin, source, of)
            cache.place.leave(source.buffers)
        found.place.leave(layer.buffers)
    return found


def _inputs(caches: Sequence[Readable]) -> list[EncodedInput | None]:
    """Which input each slot attends; those that lie in another place than the first cache's, once
    copied to it."""
    copies: dict[EncodedInput, EncodedInput] = {}
    for cache in caches:
        if cache.place is not caches[0].place and (cache.place.budget or caches[0].place.budget):
            copies |= {found: moved(found, caches[0].place) for found in cache.cross.inputs}
    return [
        None if held is None else copies.get(held, held)
        for cache in caches
        for held in cache.cross.of
    ]


def _in_blocks(
    first: BlockLayout, layouts: Sequence[Layout], lengths: Sequence[Sequence[int]]
) -> tuple[BlockLayout, list[list[Moves] | None]]:
    """A layout with the slots of all in the first one's memory, and what moves there; None: what
    lies there already, and is shared."""
    found: BlockLayout | None = None
    moves: list[list[Moves] | None] = []
    for layout, of in zip(layouts, lengths, strict=True):
        moved: list[Moves] | None = None
        if isinstance(layout, BlockLayout) and layout.memory is first.memory:
            part = layout.fork(of)
        else:
            part = first.filled(of, layout.gone if isinstance(layout, BlockLayout) else None)
            slots = list(enumerate(of))
            moved = [(layout.entries_from(s, 0, n), part.entries_from(s, 0, n)) for s, n in slots]
        found = part if found is None else found.joined(part)
        moves.append(moved)
    assert found is not None
    return found, moves


def _in_runs(layout: Layout, lengths: Sequence[int]) -> Layout:
    """How slots of so many tokens would lie in one run each, if they lie in blocks."""
    if not isinstance(layout, BlockLayout):
        return layout
    longest = max(lengths)
    return ContiguousLayout(len(lengths), grown(longest) if longest else 0)


def _moves(layout: Layout, into: Layout, lengths: Sequence[int]) -> list[Moves]:
    """Which entries of each slot hold something, and which they become."""
    return [
        (layout.entries_from(slot, 0, length), into.entries_from(slot, 0, length))
        for slot, length in enumerate(lengths)
    ]


def _check(index: int, cache: Readable, first: Readable) -> None:
    """Raise CacheError unless a cache is of the first one's kind."""
    for what, ours, theirs in (
        ("is for layers of", cache.shapes, first.shapes),
        ("stores", cache.codec.name, first.codec.name),
        ("is on", cache.device, first.device),
        ("is laid out as", _traits(cache), _traits(first)),
    ):
        if ours != theirs:
            raise CacheError(
                f"cache {index} {what} {ours} and the first one {theirs}, so they cannot be "
                "concatenated; make both with the same arguments of make_cache, num_slots apart"
            )


def _traits(cache: Readable) -> list[dict[str, object]]:
    """Of each layer's layout, and which other layers have the same one."""
    distinct = list(dict.fromkeys(cache.layouts))
    return [{**x.traits, "shared": distinct.index(x)} for x in cache.layouts]
