"""Laws of encoder inputs: stored once, never written again, taken on with the step or not."""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kept.batch import Batch, pack
from kept.cache import Cache, EvictionPolicy, KVShape, load_cache, make_cache
from kept.cache.open_step import LayerStore
from kept.errors import CacheError
from kept.ops import (
    KV_CODECS,
    AttentionSpec,
    CrossView,
    KVView,
    attend,
    attend_with_weights,
)
from laws.kinds import KINDS, Kind, NothingStays, Rows, give_inputs, random_rows
from laws.plain import PlainCache, Token, kept, plain_attention
from laws.steps import batch_of, check_content, filled, generator, step, storing

CROSS = [kind for kind in KINDS if kind.cross]
cross_kinds = pytest.mark.parametrize("kind", CROSS, ids=[kind.name for kind in CROSS])


def input_addresses(cache: Cache) -> list[int]:
    """Where the buffers of each input begin."""
    return [
        x.data_ptr()
        for found in cache.cross.inputs
        for layer in found.layers
        for x in layer.keys + layer.values
    ]


def reading(sources: list[list[int] | None], slots: list[int]) -> Batch:
    """A step of one token a slot that brings these inputs."""
    return pack([[0]] * len(slots), slots=slots, sources=sources)


def store_step(cache: Cache, batch: Batch, rows: Rows, inputs: Rows) -> list[CrossView]:
    found = []
    with cache.step(batch) as stores:
        own, crossing = storing(stores), stores[cache.num_layers :]
        for store, (k, v) in zip([*own, *crossing], [*rows, *inputs], strict=True):
            found.append(store.append(k, v))
    return found[2:]


@cross_kinds
def test_no_operation_on_slots_copies_an_input(kind: Kind, tmp_path: Path) -> None:
    cache, plain = filled(kind)
    before, size = input_addresses(cache), plain.input_bytes()
    cache.repeat(3)
    twin = cache.fork()
    twin.reorder([5, 4, 3, 2, 1, 0])
    twin.reset()
    assert input_addresses(cache) == before
    assert set(input_addresses(twin)) == set(before)
    for one in (cache, twin):
        one.save(tmp_path / "cache")
        assert cache.cross.num_bytes == twin.cross.num_bytes == size
        loaded = load_cache(tmp_path / "cache", kind.all_shapes)
        assert loaded.cross.num_bytes == size
        assert len(loaded.cross.inputs) == 2
    cache.select([1, 1, 1])
    assert len(cache.cross.inputs) == 1
    assert cache.cross.num_bytes < size, "an input goes with the last slot that attends it"


@cross_kinds
def test_equal_inputs_of_a_step_are_stored_once(kind: Kind) -> None:
    cache, source = kind.make(3), generator()
    batch = reading([[4, 5], [6], [4, 5]], [0, 1, 2])
    inputs = random_rows(kind.cross, 3, source)
    store_step(cache, batch, random_rows(kind.shapes, 3, source), inputs)
    assert cache.input_lengths == (2, 1, 2)
    assert len(cache.cross.inputs) == 2
    assert cache.cross.num_bytes == 3 * sum(kind.token_bytes(2 + i) for i in range(2))


@cross_kinds
def test_a_failed_step_takes_on_no_input(kind: Kind) -> None:
    cache, plain = kind.make(2), PlainCache.empty(kind, 2)
    source = generator()
    rows, inputs = random_rows(kind.shapes, 2, source), random_rows(kind.cross, 5, source)
    poison = [(k * torch.nan, v * torch.nan) for k, v in inputs]
    batch = reading([[1, 2], [3, 4, 5]], [1, 0])
    for given, error in ((poison[:1], "1 of 2 cross layers"), (poison, "division")):
        with pytest.raises((CacheError, ZeroDivisionError), match=error):
            fail_after(cache, batch, rows, given, divide=given is poison)
        check_content(cache, plain)
    step(cache, plain, [1, 2], [0, 1], source)


def fail_after(cache: Cache, batch: Batch, rows: Rows, inputs: Rows, *, divide: bool) -> None:
    with cache.step(batch) as stores:
        own, crossing = storing(stores), stores[cache.num_layers :]
        for store, (k, v) in zip([*own, *crossing], [*rows, *inputs], strict=False):
            store.append(k, v)
        if divide:
            raise ZeroDivisionError("division by zero")


@cross_kinds
def test_old_and_new_inputs_in_one_step(kind: Kind) -> None:
    """A slot that goes on with its input beside one that brings another, readers out of order."""
    cache, plain = filled(kind)
    cache.repeat(2)  # 0, 0, 1, 1 with 11, 11, 9, 9 tokens
    plain.select([0, 0, 1, 1])
    lengths = [11, 0, 9, 9]
    if not all(plain.can_truncate(slot, n) for slot, n in enumerate(lengths)):
        lengths = [11, 0, 0, 9]
    cache.truncate(lengths)
    plain.truncate(lengths)
    source = generator()
    inputs, slots = random_rows(kind.cross, 4, source), [3, 1, 0]
    views = store_step(
        cache,
        reading([None, [1, 2, 3, 4], None], slots),
        random_rows(kind.shapes, 3, source),
        inputs,
    )
    plain.give_inputs([1], [inputs])
    for layer, view in enumerate(views):
        shape = kind.cross[layer]
        spec = AttentionSpec(0.5, causal=False)
        q = torch.randn(3, shape.num_kv_heads, shape.head_dim, generator=source)
        expected = torch.cat(
            [
                plain.attend(slot, 2 + layer, part, spec)
                for slot, part in zip(slots, q.split(1), strict=True)
            ]
        )
        for out in (attend(q, view, spec), attend_with_weights(q, view, spec)[0]):
            torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    check_bytes(cache, plain)


def check_bytes(cache: Cache, plain: PlainCache) -> None:
    assert cache.cross.num_bytes == plain.input_bytes()
    assert cache.input_lengths == tuple(len(slot.input[0]) for slot in plain.slots)


@cross_kinds
def test_the_textbook_way(kind: Kind) -> None:
    """`update` of a cross layer stores an input for every slot; its layers come in any order."""
    cache, source = kind.make(), generator()
    cache.cross.of, first = [None], cache.num_layers
    read = [padded(shape, 3, 6, source) for shape in kind.cross]
    own = [padded(shape, 3, 2, source) for shape in kind.shapes]
    for layer, pair in ((first, read[0]), (0, own[0]), (first + 1, read[1]), (1, own[1])):
        keys, _ = cache.update(*pair, layer)
        assert keys.shape[:3] == (3, cache.shapes[layer].num_kv_heads, 6 if layer > 1 else 2)
        if layer == first:
            assert cache.input_lengths == (0,) * 3
            again = rf"layer {first} was updated twice.*\[{first + 1}\]"
            with pytest.raises(CacheError, match=again):
                cache.update(*read[0], first)
    assert (cache.lengths, cache.input_lengths) == ((2,) * 3, (6,) * 3)
    for which in (0, 1):
        found = torch.stack([pair[which] for pair in cache.layer(first + 1)])
        assert found.shape == read[1][which].shape
    with pytest.raises(CacheError, match="holds 2 tokens that have attended another input"):
        cache.update(*read[0], first)
    cache.truncate(0)
    cache.update(*read[1], first + 1)
    cache.abandon()
    assert cache.input_lengths == (6,) * 3
    for layer, pair in enumerate(padded(shape, 3, 4, source) for shape in kind.cross):
        cache.update(*pair, first + layer)
    assert cache.input_lengths == (4,) * 3


def padded(
    shape: KVShape, batch: int, length: int, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    size = (batch, shape.num_kv_heads, length, shape.head_dim)
    return torch.randn(size, generator=source), torch.randn(size, generator=source)


@cross_kinds
def test_odd_requests_get_their_error(kind: Kind) -> None:
    cache, _ = filled(kind)
    first = cache.num_layers
    [(k, v), _] = random_rows(kind.cross, 3, generator())
    with pytest.raises(CacheError, match=r"slot 1 holds 9 tokens.*truncate the slot to 0"):
        cache.step(reading([[1]], [1])).__enter__()
    empty = kind.make(2)
    empty.cross.of = [None, None]
    with pytest.raises(CacheError, match="slot 0 has no encoder input"):
        empty.step(batch_of([1], [0])).__enter__()
    for request, message in (
        (lambda stores: stores[first].append(k, v), "brings no encoder input"),
        (lambda stores: stores[0].read(), "of its own; append.. them"),
    ):
        with pytest.raises(CacheError, match=message):
            in_step(cache, batch_of([1], [0]), request)
    cache.truncate(0)
    for request, message in (
        (lambda stores: stores[first].read(), "has not stored"),
        (lambda stores: stores[first].append(k[:2], v[:2]), r"input rows, heads, head.*\(3,"),
    ):
        with pytest.raises(CacheError, match=message):
            in_step(cache, reading([[1, 2, 3]], [0]), request)


def in_step(cache: Cache, batch: Batch, request: Callable[[list[LayerStore]], object]) -> None:
    with cache.step(batch) as stores:
        request(stores)


def test_a_decoders_cache_takes_no_input() -> None:
    with pytest.raises(CacheError, match=r"no cross layers to hold it.*kv_shapes"):
        KINDS[0].make().step(reading([[1]], [0])).__enter__()


def test_readers_of_one_input_are_attended_together() -> None:
    """The two ways to attend agree where an input's rows lie apart, are none, or are all."""
    kind = CROSS[0]
    cache, source = kind.make(4), generator()
    cache.select([0, 1, 0, 3, 1])
    for counts in ([2, 1, 3, 0, 1], [0, 4, 0, 0, 0], [1, 0, 2, 0, 0]):
        starts = (0, *accumulate(counts))
        tokens = torch.zeros(starts[-1], dtype=torch.int64)
        batch = Batch(tokens, tokens, starts, tuple(range(5)), tuple(counts))
        rows = random_rows(kind.shapes, starts[-1], source)
        with cache.step(batch) as stores:
            for store, (k, v) in zip(stores[:2], rows, strict=True):
                store.append(k, v)
            for store, shape in zip(stores[2:], kind.cross, strict=True):
                q = torch.randn(len(tokens), 2 * shape.num_kv_heads, shape.head_dim)
                spec, view = AttentionSpec(0.7, causal=False), store.read()
                expected = attend_with_weights(q, view, spec)[0]
                torch.testing.assert_close(attend(q, view, spec), expected)


SHAPES = (KVShape(1, 3), KVShape(2, 37), KVShape(1, 3, cross=True), KVShape(2, 37, cross=True))
OPTIONS = {
    "dynamic": {},
    "static": {"max_cache_len": 30},
    "sliding": {"sliding_window": 4, "num_sinks": 1},
    "evicting": {"budget": 6, "grain": 4, "policy": EvictionPolicy("key-norm", 1, 2)},
}


@pytest.mark.parametrize("codec", [*KV_CODECS, ("int8", "float16"), ("bfloat16", "int4")], ids=str)
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_kind_codec_and_place(
    kind: str, codec: str | tuple[str, str], tmp_path: Path
) -> None:
    """Whatever the others forget, a cross layer holds all that its codec leaves of an input."""
    source = generator()
    inputs = [random_rows(SHAPES[2:], length, source) for length in (3, 70)]
    wide = codec == "float64"
    expected = [
        [list(zip(k, v, strict=True)) if wide else kept(list(zip(k, v, strict=True)), codec)
         for k, v in rows]
        for rows in inputs
    ]  # fmt: skip
    places = [None] if kind == "evicting" else [None, NothingStays(Path(__file__).parent, 1 << 30)]
    for place in places:
        cache = make_cache(SHAPES, kind, num_slots=2, kv_dtype=codec, place=place, **OPTIONS[kind])
        give_inputs(cache, [0, 1], inputs)
        go_on(cache, 13, expected, [0, 1])
        cache.save(tmp_path / "cache")
        loaded = load_cache(tmp_path / "cache", SHAPES)
        twin = cache.fork()
        twin.repeat(2)
        twin.truncate(0)
        go_on(twin, 9, expected, [0, 0, 1, 1])
        loaded.reorder([1, 0])
        go_on(loaded, 5, expected, [1, 0])
        go_on(cache, 2, expected, [0, 1])
        assert twin.cross.num_bytes == loaded.cross.num_bytes == cache.cross.num_bytes
        lease = cache.lease((0, 1))
        assert (lease is None) == (kind == "evicting" or place is not None)
        if lease is not None:
            assert lease.stores.inputs is not None
            assert [lease.stores.inputs.lengths[i] for i in lease.stores.inputs.of] == [
                cache.input_lengths[slot] for slot in (0, 1)
            ]
            empty = make_cache(SHAPES, kind, num_slots=1, kv_dtype=codec, **OPTIONS[kind])
            assert empty.lease((0,)) is None


def go_on(cache: Cache, count: int, expected: list[list[list[Token]]], attended: list[int]) -> None:
    """Bring so many tokens to each slot, and hold each step's cross layers against the inputs."""
    source, slots = generator(), range(cache.num_slots)
    ends = [length + count for length in cache.lengths]
    while cache.lengths != tuple(ends):
        counts = [
            min(ends[s] - n, cache.max_step(s) or n + 99) for s, n in enumerate(cache.lengths)
        ]
        rows = random_rows(SHAPES[:2], sum(counts), source)
        with cache.step(batch_of(counts, slots)) as stores:
            for layer, (k, v) in enumerate(rows):
                stores[layer].append(k, v)
                check_input(stores[2 + layer].read(), layer, counts, expected, attended)
    for layer in range(2):
        for slot, pair in enumerate(cache.layer(2 + layer)):
            for which, found in enumerate(pair):
                tokens = expected[attended[slot]][layer]
                whole = torch.stack([token[which] for token in tokens], dim=1)
                assert torch.equal(found, whole.to(found.dtype))
            assert cache.held(2 + layer)[slot].tolist() == [list(range(len(tokens)))] * len(found)


def check_input(
    view: KVView, layer: int, counts: list[int], expected: list[list[list[Token]]], of: list[int]
) -> None:
    shape, spec = SHAPES[2 + layer], AttentionSpec(0.5, causal=False)
    q = torch.randn(sum(counts), 2 * shape.num_kv_heads, shape.head_dim, generator=generator())
    parts = zip(of, q.split(counts), strict=True)
    out = torch.cat([plain_attention(part, expected[i][layer], spec) for i, part in parts])
    torch.testing.assert_close(attend(q, view, spec).double(), out, rtol=0, atol=1e-5)
