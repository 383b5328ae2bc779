"""Engines of a model with windows that share a room: each text is what it is alone, and each block
of each group is counted where it lies."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch

from kept import CacheFullError, SamplingParams, machine
from kept.batch import pack
from kept.cache import KVShape, make_cache
from kept.engine import (
    ContextRule,
    Continuation,
    Engine,
    Request,
    Room,
    SampleGroup,
    make_group,
)
from kept.engine.supply import Supply
from kept.sampling import TokenHistory

from .pool_sums import check_nothing_is_left, check_pool
from .tiny import VOCAB, native_model

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
MODEL = "gemma3"  # of a layer with a window of 70 tokens, and one without
# The last reads its window anew as it slides: it shares nothing, and sets aside all it may need.
KINDS = (
    ("float32", ContextRule(640)),
    ("int8", ContextRule(640)),
    ("float32", ContextRule(150, slides=True, hop=50)),
)


def engine(kind: int, room: Room) -> Engine:
    codec, rule = KINDS[kind]
    model = native_model(MODEL, "bf16")
    cache = make_cache(model.kv_shapes, num_slots=3, kv_dtype=codec, pool_bytes=room.limit)
    return Engine(model, cache, rule, prefill_chunk=100, room=room)


def request(kind: int, random: Random) -> Request:
    """A text that begins like one of two others."""
    rule, begin = KINDS[kind][1], Random(random.randrange(2))
    prompt = [begin.randrange(VOCAB - 1) for _ in range(random.choice((30, 100, 200, 540)))]
    prompt += [random.randrange(VOCAB - 1) for _ in range(random.randrange(3))]
    width = random.choice((1, 1, 2))
    params = SamplingParams(
        max_new_tokens=random.choice((3, 40, 90)), do_sample=True, num_return_sequences=width
    ).resolve(vocab_size=VOCAB)
    results = [
        Continuation(
            TokenHistory(prompt),
            params,
            seed=index,
            limit=rule.limit(len(prompt), params.max_new_tokens) - 2 * index,
            prompt_index=0,
            index=index,
            tokenizer=None,
            offset=rule.first_offset(len(prompt)),
        )
        for index in range(width)
    ]
    return Request(SampleGroup(results))


def outcome(of: Request) -> list[tuple[list[int], str | None]]:
    found = [c.completion() for c in of.group.results]
    return [(list(c.token_ids), c.finish_reason) for c in found]


def alone(kind: int, seed: int) -> list[tuple[list[int], str | None]]:
    by_itself, one = engine(kind, Room()), request(kind, Random(seed))
    by_itself.submit(one)
    while by_itself.has_work:
        by_itself.step()
    return outcome(one)


def law(limit: int, count: int = 12) -> list[Engine]:
    """Requests come to each engine in turn, while those before them run."""
    room = Room(limit)
    engines = [engine(kind, room) for kind in range(len(KINDS))]
    asked = [(i % len(KINDS), i, request(i % len(KINDS), Random(i))) for i in range(count)]
    waiting = asked[::-1]
    for step in range(1500):
        if waiting and step % 9 == 0:
            kind, _, one = waiting.pop()
            engines[kind].submit(one)
        for each in engines:
            if each.has_work:
                each.step()
            check_pool(each)
        reserved = sum(x.num_reserved * x.block_bytes for of in engines for x in of.cache.pools)  # type: ignore[union-attr]
        assert reserved == room.budget.taken <= limit
        if not waiting and not any(each.has_work for each in engines):
            break
    assert all(one.finished for *_, one in asked), "somebody waits for ever"
    for kind, seed, one in asked:
        assert outcome(one) == alone(kind, seed), (kind, seed)
    assert not engines[-1].counters.parked
    for each in engines:
        check_nothing_is_left(each)
    assert room.budget.taken == 0
    return engines


def least() -> int:
    """Bytes in which the widest request has room."""
    cache = make_cache(native_model(MODEL, "bf16").kv_shapes, kv_dtype="float32")
    return 2 * 11 * cache.block_bytes


@pytest.mark.parametrize("more", [0, 40_000])
def test_texts_are_what_they_are_alone(more: int) -> None:
    engines = law(least() + more)
    counters = [each.counters for each in engines]
    assert sum(each.evicted_blocks for each in counters) > 20
    assert sum(each.cached_tokens.total() for each in counters) > 100


def count_one_group(patch: pytest.MonkeyPatch) -> None:
    used = property(lambda of: of._pools[0].num_used * of._pools[0].block_bytes)
    patch.setattr(Supply, "num_used", used)


def keep_texts(patch: pytest.MonkeyPatch) -> None:
    """Texts that have ended make way for those of their own engine alone."""
    patch.setattr(Supply, "returnable", 0)
    patch.setattr(Supply, "oldest", lambda of, own: of._known.oldest if own and of._known else None)


@pytest.mark.parametrize("broken", [count_one_group, keep_texts])
def test_this_law_can_fail(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        law(least())


def test_a_lease_leaves_each_layout_a_block_for_the_next_token() -> None:
    """One layout must not take ahead what another needs for a copy before its next token."""
    shapes = [KVShape(1, 4), KVShape(1, 4, 100)]
    size = make_cache(shapes).block_bytes // 2
    cache = make_cache(shapes, num_slots=3, pool_bytes=5 * size)
    keys = torch.randn(60, 1, 4)

    def store(count: int, slots: list[int]) -> None:
        past = [cache.lengths[slot] for slot in slots]
        with cache.step(pack([[0] * count] * len(slots), past=past, slots=slots)) as stores:
            for each in stores:
                each.append(keys[: count * len(slots)], keys[: count * len(slots)])

    store(60, [0])
    cache.reorder([0, 0, 0])  # one block a layout, which all three share
    store(1, [0])
    lease = cache.lease((0, 1))
    assert lease is not None
    assert lease.room >= 1
    store(1, [0, 1])
    assert cache.lengths == (62, 61, 60)


def sunk(num_blocks: int) -> Engine:
    """Of layers that attend four sinks and the last 70 tokens."""
    shapes = native_model("llama", "bf16").kv_shapes
    fields = {"sliding_window": 70, "num_sinks": 4}
    size = make_cache(shapes, "sliding", **fields).block_bytes
    pool_bytes = num_blocks * size
    cache = make_cache(shapes, "sliding", num_slots=2, pool_bytes=pool_bytes, **fields)
    return Engine(native_model("llama", "bf16"), cache, ContextRule(640), prefill_chunk=64)


def answers(engine: Engine, prompt: list[int]) -> list[tuple[list[int], str | None]]:
    params = SamplingParams(max_new_tokens=3, seed=1).resolve(vocab_size=VOCAB)
    one = engine.submit(Request(make_group(prompt, params, ContextRule(640))))
    while engine.has_work:
        engine.step()
    return outcome(one)


def test_so_are_texts_with_sinks_that_begin_like_others() -> None:
    random = Random(4)
    first, other = ([random.randrange(VOCAB - 1) for _ in range(count)] for count in (420, 130))
    texts = [first, other, [*first, 1, 2], other[:70], first[:200]]
    alone = [answers(sunk(40), text) for text in texts]
    for num_blocks in (8, 9, 12):
        together = sunk(num_blocks)
        assert [answers(together, text) for text in texts] == alone
        check_nothing_is_left(together)
    with pytest.raises(CacheFullError):  # that the block of the sinks lacks
        answers(sunk(7), [*first, *other])


def test_so_are_texts_whose_windows_lie_in_blocks_and_which_evict_elsewhere() -> None:
    def evicting() -> Engine:
        model = native_model(MODEL, "bf16")
        cache = make_cache(model.kv_shapes, "evicting", num_slots=2, budget=40)
        assert cache.pools
        return Engine(model, cache, ContextRule(640), prefill_chunk=64)

    random, together = Random(5), evicting()
    for length in (200, 90):
        text = [random.randrange(VOCAB - 1) for _ in range(length)]
        assert answers(together, text) == answers(evicting(), text)
