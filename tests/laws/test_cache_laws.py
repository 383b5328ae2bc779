"""Laws with a sequence of their own: chunking, company, growth, sharing, dtypes."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import cells, examples
from torch import Tensor

from kept.cache import Cache, make_cache
from kept.ops import attend
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

every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
LENGTH = 22


def queries(kind: Kind, num_rows: int) -> list[Tensor]:
    """Two query heads to a key head, for every layer."""
    return [
        torch.randn(num_rows, 2 * shape.num_kv_heads, shape.head_dim, generator=generator())
        for shape in kind.shapes
    ]


def outputs(
    kind: Kind, cache: Cache, slots: list[int], parts: list[tuple[int, int]], rows: Rows
) -> list[Tensor]:
    """Attention of every layer in one step that brings tokens a to b of `rows` to each slot."""
    found = []
    counts = [b - a for a, b in parts]
    with cache.step(batch_of(counts, slots)) as stores:
        all_queries = queries(kind, rows[0][0].shape[0])
        for layer, (store, (k, v), q) in enumerate(
            zip(storing(stores), rows, all_queries, strict=True)
        ):
            picked = (torch.cat([x[a:b] for a, b in parts]) for x in (k, v, q))
            k_new, v_new, q_new = picked
            found.append(attend(q_new, store.append(k_new, v_new), kind.spec(layer)))
    return found


def in_chunks(kind: Kind, cuts: list[int], rows: Rows) -> list[Tensor]:
    ends = [*sorted(set(cuts)), LENGTH]
    cache, chunks = kind.make(), []
    for a, b in zip([0, *ends], ends, strict=False):
        chunks.append(outputs(kind, cache, [0], [(a, b)], rows))
    return [torch.cat(of_layer) for of_layer in zip(*chunks, strict=True)]


@every_kind
@settings(max_examples=examples(2, 5))
@given(cuts=st.lists(st.integers(1, LENGTH - 1), max_size=LENGTH))
def test_chunking_changes_no_output(kind: Kind, cuts: list[int]) -> None:
    rows = random_rows(kind, LENGTH, generator())
    whole = in_chunks(kind, [], rows)
    for found, expected in zip(in_chunks(kind, cuts, rows), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@every_kind
@settings(max_examples=examples(1, 5))
@given(data=st.data())
def test_company_changes_no_output(kind: Kind, data: st.DataObject) -> None:
    """Two sequences stored together, out of order and unevenly, against each alone."""
    rows = random_rows(kind, LENGTH, generator())
    together, alone = kind.make(3), [kind.make(), kind.make()]
    places = data.draw(st.permutations(range(3)))[:2]
    done = [0, 0]
    while min(done) < LENGTH - 5:
        parts = [(n, n + data.draw(st.integers(1, 5))) for n in done]
        joint = outputs(kind, together, places, parts, rows)
        single = [
            outputs(kind, cache, [0], [p], rows) for cache, p in zip(alone, parts, strict=True)
        ]
        for found, *expected in zip(joint, *single, strict=True):
            torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)
        done = [b for _, b in parts]
        if max(done) >= LENGTH - 5:
            break


@every_kind
def test_buffers_are_seldom_replaced(kind: Kind) -> None:
    """What is copied while single tokens come stays in proportion to what they take."""
    cache = kind.make()
    rows = random_rows(kind, 1, generator())
    kept: list[Tensor] = []  # holding them keeps an address from being used twice
    for _ in range(kind.limit or examples(150, 1000)):
        with cache.step(batch_of([1], [0])) as stores:
            for store, (k, v) in zip(storing(stores), rows, strict=True):
                store.append(k, v)
        for layer in cache.layers:
            if not any(layer.keys[0] is x for x in kept):
                kept.append(layer.keys[0])
    assert sum(x.shape[2] for x in kept) <= 10 * sum(x.capacity for x in cache.layers)
    if kind.limit is not None:
        assert len(kept) == len(cache.layers)


@every_kind
def test_static_or_not_a_full_step_shows_in_num_bytes(kind: Kind) -> None:
    cache = kind.make(2)
    before = cache.num_bytes
    plain = PlainCache.empty(kind, 2)
    step(cache, plain, [20, 3], [1, 0], generator())
    sizes = [kind.token_bytes(layer) for layer in range(len(kind.shapes))]
    if kind.limit is not None:
        held = 2 * kind.limit * sum(sizes) + plain.input_bytes()
        assert before == cache.num_bytes == held
    assert cache.num_bytes >= (20 + 3) * sum(sizes)


@pytest.mark.parametrize(("kind", "writer"), cells(KINDS, ["fork", "original"], out_of=2), ids=str)
def test_a_fork_shares_memory_until_one_side_writes(kind: Kind, writer: str) -> None:
    cache, plain = filled(kind)
    twin = cache.fork()
    assert addresses(twin) == addresses(cache)
    first, second = (twin, cache) if writer == "fork" else (cache, twin)
    before = in_runs(kind, second)
    step(first, plain.copy(), [1, 3], [0, 1], generator())
    assert in_runs(kind, second) == before
    assert not set(in_runs(kind, first)) & set(before)
    check_content(second, plain)
    step(second, plain, [1, 3], [1, 0], generator())
    assert in_runs(kind, second) == before, "the last one to share takes no copy"


def in_runs(kind: Kind, cache: Cache) -> list[int]:
    """Where buffers begin that are a cache's own: blocks lie in one memory for all forks."""
    pairs = zip(cache.layers, kind.blocks, strict=True)
    return [x.data_ptr() for layer, lies in pairs if not lies for x in layer.buffers]


@pytest.mark.parametrize(
    ("kind", "write"), cells(KINDS, ["truncate", "reorder", "reset"], out_of=3), ids=str
)
def test_moving_a_fork_leaves_the_other_side(kind: Kind, write: str) -> None:
    cache, plain = filled(kind)
    twin = cache.fork()
    match write:
        case "truncate":
            twin.truncate([11, 9])
            twin.truncate(0)
        case "reorder":
            twin.reorder([1, 0])
        case "reset":
            twin.reset()
    check_content(cache, plain)
    step(cache, plain, [2], [1], generator())


@every_kind
def test_a_dropped_fork_costs_no_copy(kind: Kind) -> None:
    cache, plain = filled(kind)
    before = addresses(cache)
    twin = cache.fork()
    assert addresses(twin) == before
    del twin
    gc.collect()
    step(cache, plain, [1, 1], [0, 1], generator())
    assert addresses(cache) == before


@every_kind
def test_a_sequence_may_bring_no_token(kind: Kind) -> None:
    """A step may list a sequence without rows; its slot stays as it is."""
    cache, plain = filled(kind)
    batch = batch_of([2], [1])
    rows = random_rows(kind, 2, generator())
    empty_too = type(batch)(batch.tokens, batch.positions, (0, 0, 2), (0, 1), (0, 2))
    with cache.step(empty_too) as stores:
        for store, (k, v) in zip(storing(stores), rows, strict=True):
            assert attend(k, store.append(k, v), kind.spec(0)).isfinite().all()
    plain.append([1], [[list(zip(k, v, strict=True)) for k, v in rows]])
    check_content(cache, plain)


@every_kind
def test_buffers_made_in_inference_mode_can_be_written_outside(kind: Kind) -> None:
    with torch.inference_mode():
        cache, plain = filled(kind)
        cache.fork().select([1, 0, 1])
    check_content(cache, plain)
    step(cache, plain, [3], [0], generator())
    cache.reset()
    assert cache.lengths == (0, 0)


@every_kind
def test_stored_keys_carry_no_gradient(kind: Kind) -> None:
    cache = kind.make()
    for _ in range(2):
        with cache.step(batch_of([2], [0])) as stores:
            for store, (k, v) in zip(
                storing(stores), random_rows(kind, 2, generator()), strict=True
            ):
                store.append(k.requires_grad_(), v.requires_grad_())
    assert not any(x.requires_grad for layer in cache.layers for x in layer.buffers)


@every_kind
@settings(max_examples=examples(1, 3))
@given(cuts=st.lists(st.integers(1, LENGTH - 1), max_size=3), back=st.integers(0, 1))
def test_what_is_stored_never_changes(kind: Kind, cuts: list[int], back: int) -> None:
    """Truncating and storing again, in other chunks, leaves the very same bits."""
    rows = random_rows(kind, LENGTH, generator())
    whole, pieces = kind.make(), kind.make()
    outputs(kind, whole, [0], [(0, LENGTH)], rows)
    done = 0
    for end in [*sorted(set(cuts)), LENGTH]:
        outputs(kind, pieces, [0], [(done, end)], rows)
        done = max(0, end - back) if end < LENGTH else end
        pieces.truncate(done)
    for layer, window in enumerate(kind.windows):
        begin = 0 if window is None else max(0, LENGTH - window.size)
        [(k, v)], [(k_again, v_again)] = whole.layer(layer, begin), pieces.layer(layer, begin)
        assert torch.equal(k, k_again)
        assert torch.equal(v, v_again)


def test_a_stored_dtype_beside_the_models_own() -> None:
    shapes = KINDS[0].shapes
    assert make_cache(shapes, dtype=torch.bfloat16).codec.name == "bfloat16"
    cache = make_cache(shapes, dtype=torch.bfloat16, kv_dtype="int8")
    assert (cache.codec.name, cache.dtype) == ("int8", torch.float32)
    q = torch.randn(3, 1, 3, dtype=torch.bfloat16)
    with cache.step(batch_of([3], [0])) as stores:
        for store, shape in zip(stores[:2], shapes, strict=True):
            k = torch.randn(3, shape.num_kv_heads, shape.head_dim, dtype=torch.bfloat16)
            view = store.append(k, k)
            if shape is shapes[0]:
                assert attend(q, view, KINDS[0].spec(0)).dtype == torch.bfloat16
