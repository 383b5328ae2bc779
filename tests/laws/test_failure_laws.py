"""What fails leaves a cache as it was, and what was taken back is never seen again."""

import pytest
import torch

from kept.batch import pack
from kept.blocks import BLOCK
from kept.cache import Cache, make_cache
from kept.cache.layer import Buffers, LayerCache
from kept.errors import CacheError, CacheFullError
from kept.machine import NATIVE_AVAILABLE
from laws.kinds import KINDS, NAMES, Kind
from laws.plain import PlainCache
from laws.steps import (
    Rows,
    addresses,
    batch_of,
    check_content,
    filled,
    generator,
    random_rows,
    step,
    storing,
)
from laws.tiny import native_model

every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
WINDOWED = [kind for kind in KINDS if kind.windows[1] is not None]


@every_kind
def test_nan_that_was_truncated_or_never_committed_is_never_seen(kind: Kind) -> None:
    """Masked entries are multiplied by zero, and zero times NaN is NaN."""
    for leave in ("truncate", "reset", "fail", "abandon", "fork"):
        cache, plain = filled(kind)
        poison = [(k * torch.nan, v * torch.nan) for k, v in random_rows(kind, 6, generator())]
        lengths = cache.lengths
        if leave in ("truncate", "reset"):
            with cache.step(batch_of([1, 1], [0, 1])) as stores:
                for store, (k, v) in zip(storing(stores), poison, strict=True):
                    store.append(k[:2], v[:2])
            lengths = lengths if leave == "truncate" else (0, 0)
            cache.truncate(lengths)
            plain.append([0, 1], [[[(k[0], v[0])] for k, v in poison]] * 2)
            plain.truncate(lengths)
        elif leave == "fail":
            with pytest.raises(ZeroDivisionError):
                fail_after(cache, poison, 2, [3, 3], [0, 1])
        else:
            k, v = (x.view(2, 3, *x.shape[1:]).transpose(1, 2) for x in poison[0])
            cache.update(k, v, 0)
            if leave == "fork":
                cache = cache.fork()
            else:
                cache.abandon()
        step(cache, plain, [8], [0], generator())
        step(cache, plain, [1, 1], [1, 0], generator())
        for layer in cache.layers:
            assert not layer.zeroes or all(x.isfinite().all() for x in layer.buffers)


def fail_after(
    cache: Cache, rows: Rows, num_layers: int, counts: list[int], slots: list[int]
) -> None:
    """A step that raises when so many layers have stored."""
    with cache.step(batch_of(counts, slots)) as stores:
        for store, (k, v) in list(zip(storing(stores), rows, strict=True))[:num_layers]:
            store.append(k, v)
        raise ZeroDivisionError


@every_kind
def test_an_operation_inside_a_step_fails_the_step(kind: Kind) -> None:
    cache, plain = filled(kind)
    with pytest.raises(CacheError, match="dropped the step"):
        store_while_truncating(cache, random_rows(kind, 2, generator()))
    plain.truncate([11, 9])
    check_content(cache, plain)
    step(cache, plain, [2, 2], [0, 1], generator())


def store_while_truncating(cache: Cache, rows: Rows) -> None:
    with cache.step(batch_of([1, 1], [0, 1])) as stores:
        for store, (k, v) in zip(storing(stores), rows, strict=True):
            store.append(k, v)
        cache.truncate([11, 9])


def test_a_full_static_cache_stays_as_it_was() -> None:
    kind = next(k for k in KINDS if k.limit is not None)
    cache, plain = filled(kind)
    for counts, slots in (([14], [0]), ([1, 16], [0, 1])):
        with pytest.raises(CacheFullError, match=r"24 tokens.*25 would.*max_cache_len"):
            cache.step(batch_of(counts, slots)).__enter__()
    check_content(cache, plain)
    empty = kind.make()
    shape = kind.shapes[0]
    with pytest.raises(CacheFullError):
        empty.update(*[torch.ones(3, shape.num_kv_heads, 25, shape.head_dim)] * 2, 0)
    assert empty.num_slots == 1
    step(cache, plain, [13, 15], [0, 1], generator())
    assert cache.lengths == (24, 24)


@pytest.mark.parametrize("kind", WINDOWED, ids=[kind.name for kind in WINDOWED])
def test_a_window_goes_back_by_64_tokens_and_no_failed_step_changes_that(kind: Kind) -> None:
    whole, told = kind.make(), PlainCache.empty(kind, 1)
    for _ in range(3):
        step(whole, told, [90], [0], generator())
    with pytest.raises(ZeroDivisionError):
        fail_after(whole, random_rows(kind, 70, generator()), 2, [70], [0])
    check_content(whole, told)
    for length in (270 - BLOCK, 193, 192, 150, 128, 66, 64, 3, 0):
        cache, plain = whole.fork(), told.copy()
        assert plain.can_truncate(0, length) or 0 < length < 270 - BLOCK
        if plain.can_truncate(0, length):
            cache.truncate(length)
            plain.truncate([length])
        else:
            before = cache.fork()
            with pytest.raises(CacheError, match=rf"cannot go back to {length}.*keeps_all"):
                cache.truncate(length)
            assert addresses(cache) == addresses(before)
        check_content(cache, plain)
        step(cache, plain, [1], [0], generator())


@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="installed without a C++ compiler")
def test_a_growth_that_failed_half_way_leaves_a_native_step_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One layer's buffers are then larger than the layout, which kernels take its strides from."""
    model = native_model("llama", "bf16")
    cache = make_cache(model.kv_shapes, num_slots=2, dtype=model.dtype, in_blocks=False)
    model.run(pack([[1, 2, 3] * 20, [4, 5] * 24]), cache)
    intact = cache.fork()
    grow, layers = LayerCache.relaid, iter(cache.layers)

    def grow_one(layer: LayerCache, capacity: int) -> tuple[Buffers, Buffers]:
        if layer is not next(layers):
            raise AssertionError
        if layer is cache.layers[1]:
            raise MemoryError
        return grow(layer, capacity)

    monkeypatch.setattr(LayerCache, "relaid", grow_one)
    with pytest.raises(MemoryError):
        model.run(pack([[1] * 10], past=[60], slots=[0]), cache)
    monkeypatch.setattr(LayerCache, "relaid", grow)
    assert [layer.capacity for layer in cache.layers] == [128, 64]
    assert cache.lengths == (60, 48)
    batch = pack([[9, 9], [8]], past=[60, 48])
    assert torch.equal(model.run(batch, cache), model.run(batch, intact))


@every_kind
def test_odd_requests_get_their_error(kind: Kind) -> None:
    cache, plain = filled(kind)
    for request, message in (
        (lambda: cache.select([]), r"\[\] of a cache of 2"),
        (lambda: cache.select([0, 2]), "from 0 to 1"),
        (lambda: cache.reorder([0]), "each of 2 slots, not 1"),
        (lambda: cache.repeat(0), "0 times; give 1 or more"),
        (lambda: cache.truncate(-1), "at least 0"),
        (lambda: cache.truncate([1]), "each of 2 slots"),
    ):
        with pytest.raises(ValueError, match=message):
            request()
    for slots in ([2], [0, 0], [-1]):
        with pytest.raises(CacheError, match=r"distinct slots of this cache of 2"):
            cache.step(batch_of([1] * len(slots), slots)).__enter__()
    with pytest.raises(CacheError, match="kv_shapes"):
        store_misshapen(cache)
    check_content(cache, plain)


def store_misshapen(cache: Cache) -> None:
    with cache.step(batch_of([1], [0])) as stores:
        stores[1].append(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
