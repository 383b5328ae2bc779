"""Caches made one go on as each would have by itself, and are none the worse for it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from thinning import cells
from torch import Tensor

from kept.cache import Cache, KVShape, concatenate, make_cache
from kept.errors import CacheError, CacheFullError, OptionError
from laws.kinds import KINDS, NAMES, Kind
from laws.plain import PlainCache
from laws.steps import (
    addresses,
    batch_of,
    check_content,
    filled,
    generator,
    random_rows,
    step,
    storing,
)

every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
SHAPES = KINDS[0].shapes
OFFLOADED = [kind for kind in KINDS if kind.offloaded]


def started(kind: Kind, num_tokens: int) -> tuple[Cache, PlainCache]:
    """One slot whose buffers have grown to its tokens and no more."""
    cache, plain = kind.make(), PlainCache.empty(kind, 1)
    step(cache, plain, [num_tokens], [0], generator())
    return cache, plain


@pytest.mark.parametrize(
    ("kind", "num_tokens", "first"), cells(KINDS, [1, 3, 20], [True, False], out_of=3), ids=str
)
def test_it_holds_what_all_held(kind: Kind, num_tokens: int, first: bool) -> None:
    """Buffers of every width, in either order, and one that has not begun."""
    pairs = [filled(kind), started(kind, num_tokens), (kind.make(), PlainCache.empty(kind, 1))]
    pairs = pairs if first else pairs[::-1]
    before = [addresses(cache) for cache, _ in pairs]
    joined = concatenate([cache for cache, _ in pairs])
    plain = pairs[0][1]
    for _, other in pairs[1:]:
        plain = plain.concatenate(other)
    check_content(joined, plain)
    step(joined, plain, [1, 2, 1, 4], [3, 0, 1, 2], generator(), share=2)
    check_content(joined, plain)
    joined.reset()
    for (cache, alone), where in zip(pairs, before, strict=True):
        assert addresses(cache) == where
        check_content(cache, alone)


@every_kind
def test_a_step_in_progress_is_no_part_of_it(kind: Kind) -> None:
    cache, plain = filled(kind)
    with cache.step(batch_of([2], [1])) as stores:
        rows = random_rows(kind, 2, generator())
        storing(stores)[0].append(*rows[0])
        joined = cache.concatenate([cache])
        for store, (k, v) in zip(storing(stores)[1:], rows[1:], strict=True):
            store.append(k, v)
    halves = plain.copy()
    both = halves.concatenate(halves)
    check_content(joined, both)
    step(joined, both, [1, 1, 1, 1], [0, 1, 2, 3], generator())
    plain.append([1], [[list(zip(k, v, strict=True)) for k, v in rows]])
    check_content(cache, plain)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (make_cache(SHAPES), make_cache(SHAPES[:1]), "is for layers of"),
        (make_cache(SHAPES), make_cache([KVShape(1, 3), KVShape(2, 8)]), "is for layers of"),
        (make_cache(SHAPES), make_cache(SHAPES, kv_dtype="int8"), "stores int8"),
        (make_cache(SHAPES), make_cache(SHAPES, "static", max_cache_len=9), "is laid out as"),
        (
            make_cache(SHAPES, "static", max_cache_len=8),
            make_cache(SHAPES, "static", max_cache_len=9),
            "'max_length': 9",
        ),
        (
            make_cache(SHAPES, "sliding", sliding_window=4),
            make_cache(SHAPES, "sliding", sliding_window=4, num_sinks=1),
            "'sinks': 1",
        ),
        (make_cache(SHAPES), make_cache(SHAPES, device=torch.device("meta")), "is on meta"),
    ],
)
def test_others_are_refused(first: Cache, second: Cache, reason: str) -> None:
    with pytest.raises(CacheError, match=reason):
        first.concatenate([second])


def test_what_is_no_list_of_caches() -> None:
    for given in ([], make_cache(SHAPES), None, [None]):
        with pytest.raises(OptionError, match="concatenate"):
            concatenate(given)  # type: ignore[arg-type]
    for given in (make_cache(SHAPES), None, "cache"):
        with pytest.raises(OptionError, match="concatenate"):
            make_cache(SHAPES).concatenate(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", OFFLOADED, ids=[kind.name for kind in OFFLOADED])
def test_caches_of_different_places(kind: Kind) -> None:
    """The new one lies where the first does."""
    in_memory = replace(kind, offloaded=False)
    for first, second in ((kind, in_memory), (in_memory, kind)):
        (cache, plain), (other, other_plain) = filled(first), filled(second)
        joined = cache.concatenate([other])
        assert joined.place is cache.place
        both = plain.concatenate(other_plain)
        check_content(joined, both)
        step(joined, both, [1, 2, 1, 4], [3, 0, 1, 2], generator())
        check_content(other, other_plain)


@every_kind
def test_no_room_for_it_leaves_all_as_they_were(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever among its buffers the room ends."""
    (cache, plain), (other, other_plain) = filled(kind), started(kind, 3)
    room, zeros = 0, cache.place.zeros

    def full(size: Sequence[int], dtype: torch.dtype) -> Tensor:
        nonlocal room
        room -= 1
        if room < 0:
            raise CacheFullError("no room")
        return zeros(size, dtype)

    monkeypatch.setattr(cache.place, "zeros", full)
    before = addresses(cache), addresses(other)
    if kind.in_blocks:
        assert cache.pools
        others = cache.pools[0].take(cache.pools[0].num_free)
        with pytest.raises(
            CacheFullError, match=r"1 more blocks of 64 tokens.* 0 of [\d,]+ .*free"
        ):
            cache.concatenate([other])
        del others
    buffers = [x for layer in cache.layers for x in layer.buffers if layer.zeroes]
    for num_made in range(len(buffers)):
        room = num_made
        with pytest.raises(CacheFullError, match="no room"):
            cache.concatenate([other])
    assert (addresses(cache), addresses(other)) == before
    monkeypatch.undo()
    step(cache, plain, [1, 3], [0, 1], generator())
    step(other, other_plain, [2], [0], generator())
