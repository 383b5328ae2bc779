"""Caches whose tokens lie in blocks: who shares one never sees it change, and each token costs what
its own blocks cost."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kept.batch import pack
from kept.blocks import BLOCK, Block, BlockPool, Stack
from kept.cache import Cache, KVShape, block_memories, make_cache, memory
from kept.errors import CacheError, CacheFullError, OptionError
from kept.machine import NATIVE_AVAILABLE
from kept.ops import AttentionSpec, attend
from laws.kinds import KINDS, NAMES, Kind
from laws.steps import batch_of, check_content, filled, generator, step
from laws.tiny import native_model

NUM_SLOTS, POOL = 3, 1 << 20
SHAPES = (KVShape(1, 2), KVShape(2, 3))
needs_native = pytest.mark.skipif(not NATIVE_AVAILABLE, reason="installed without a C++ compiler")


def blocks_of(stacks: Sequence[Stack]) -> list[Block]:
    """Of layers that have their blocks together."""
    return [block for stack in stacks for block in stack.blocks if block is not None]


def numbered(tokens: Sequence[int], shape: KVShape) -> Tensor:
    """(N, G, D) keys that are nothing but their token's number."""
    rows = torch.tensor(tokens, dtype=torch.float32)[:, None, None]
    return rows.expand(-1, shape.num_kv_heads, shape.head_dim)


@dataclass
class Shared:
    """What was handed out, and the tokens that lie there."""

    stacks: tuple[Stack, ...]
    tokens: list[int]


@dataclass
class Numbered:
    """A cache beside the numbers that its slots hold, and what of them was shared."""

    cache: Cache
    held: list[list[int]]
    shared: list[Shared] = field(default_factory=list)
    next: int = 1

    def feed(self, counts: Sequence[int], *, fails: bool = False) -> None:
        """New tokens for the slots; a step that fails stores them in its first layer alone."""
        slots = [slot for slot, count in enumerate(counts) if count]
        if not slots:
            return
        new = []
        for slot in slots:
            new.append(list(range(self.next, self.next + counts[slot])))
            self.next += counts[slot]
        rows = [token for tokens in new for token in tokens]
        with (
            suppress(ZeroDivisionError),
            self.cache.step(batch_of([counts[s] for s in slots], slots)) as stores,
        ):
            for store, shape in zip(stores, SHAPES, strict=True):
                store.append(numbered(rows, shape), -numbered(rows, shape))
                if fails:
                    raise ZeroDivisionError
        if not fails:
            for slot, tokens in zip(slots, new, strict=True):
                self.held[slot] = self.held[slot] + tokens

    def forked(self) -> Numbered:
        """A fork beside the same numbers; what was shared is watched by both."""
        return Numbered(self.cache.fork(), list(self.held), self.shared, self.next + 10_000)

    def check(self) -> None:
        """All slots, and all that was ever shared, hold what they did."""
        assert self.cache.lengths == tuple(map(len, self.held))
        for index, shape in enumerate(SHAPES):
            for tokens, (keys, values) in zip(self.held, self.cache.layer(index), strict=True):
                expected = numbered(tokens, shape).transpose(0, 1)
                assert torch.equal(keys, expected)
                assert torch.equal(values, -expected)
        for index, shape in enumerate(SHAPES):
            buffer = self.cache.layers[index].keys[0]
            for each in self.shared:
                rows = (
                    buffer[[block.id for block in blocks_of(each.stacks)]]
                    .transpose(1, 2)
                    .flatten(0, 1)
                )
                assert torch.equal(rows[: len(each.tokens)], numbered(each.tokens, shape))


Act = Callable[[Numbered, Random], None]


def act_share(of: Numbered, random: Random) -> None:
    slot = random.randrange(NUM_SLOTS)
    of.shared.append(Shared(of.cache.share(slot), of.held[slot]))


def act_adopt(of: Numbered, random: Random) -> None:
    if of.shared:
        source, slot = random.choice(of.shared), random.randrange(NUM_SLOTS)
        length = random.randint(0, len(source.tokens))
        of.cache.adopt(slot, source.stacks, length)
        of.held[slot] = source.tokens[:length]


def act_truncate(of: Numbered, random: Random) -> None:
    slot = random.randrange(NUM_SLOTS)
    length = random.randint(0, len(of.held[slot]) + 3)
    of.cache.truncate_slot(slot, length)
    of.held[slot] = of.held[slot][:length]


def act_reorder(of: Numbered, random: Random) -> None:
    order = [random.randrange(NUM_SLOTS) for _ in range(NUM_SLOTS)]
    of.cache.reorder(order)
    of.held = [of.held[slot] for slot in order]


def act_forget(of: Numbered, random: Random) -> None:
    if of.shared:
        of.shared.pop(random.randrange(len(of.shared)))


def act_concatenate(of: Numbered, random: Random) -> None:
    of.cache = of.cache.concatenate([of.cache])
    of.cache.select([3, 1, 5])
    of.held = [of.held[0], of.held[1], of.held[2]]


def act_feed(of: Numbered, random: Random) -> None:
    of.feed([random.choice((0, 1, 5, 60, 64, 130)) for _ in range(NUM_SLOTS)])


def act_fail(of: Numbered, random: Random) -> None:
    of.feed([random.choice((0, 1, 70)) for _ in range(NUM_SLOTS)], fails=True)


ACTS: dict[str, Act] = {
    name.removeprefix("act_"): act for name, act in globals().items() if name.startswith("act_")
}


def played(acts: Sequence[tuple[str, int, bool]]) -> BlockPool:
    """Carry operations out on a cache and on a fork of it, which share one memory."""
    first = Numbered(make_cache(SHAPES, num_slots=NUM_SLOTS, pool_bytes=POOL), [[], [], []])
    first.feed([70, 1, 0])
    both = [first, first.forked()]
    for name, seed, on_fork in acts:
        of = both[on_fork]
        if name == "fork":
            both[not on_fork] = of.forked()
        else:
            with suppress(CacheFullError):
                ACTS[name](of, Random(seed))
        for each in both:
            each.check()
    assert first.cache.pools
    return first.cache.pools[0]


acts = st.lists(
    st.tuples(st.sampled_from([*ACTS, "fork", "feed"]), st.integers(0, 999), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150)
@given(acts)
def test_what_is_shared_never_changes(acts: list[tuple[str, int, bool]]) -> None:
    pool = played(acts)
    assert pool.num_used == 0, "nobody holds a block, and some did not come back"


@pytest.mark.parametrize("how", ["fork", "share", "reorder"])
def test_who_goes_back_writes_over_nothing_that_others_read(how: str) -> None:
    of = Numbered(make_cache(SHAPES, num_slots=NUM_SLOTS, pool_bytes=POOL), [[], [], []])
    of.feed([70, 1, 0])
    others = [of]
    if how == "fork":
        others.append(of.forked())
    elif how == "share":
        of.shared.append(Shared(of.cache.share(0), of.held[0]))
    else:
        of.cache.select([0, 0, 2])
        of.held[1] = of.held[0]
    of.cache.truncate_slot(0, 66)
    of.held[0] = of.held[0][:66]
    of.feed([3, 0, 0])
    for each in others:
        each.check()


@settings(max_examples=10)
@given(acts)
def test_so_it_is_where_memory_cannot_be_reserved(acts: list[tuple[str, int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_memories, "CAN_RESERVE", False)
        assert played(acts).num_used == 0


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_one_slot_goes_back(kind: Kind) -> None:
    """Of every kind, as far as it can."""
    cache, plain = filled(kind)
    length = 10 if plain.can_truncate(0, 10) else 0
    cache.truncate_slot(0, length)
    plain.truncate([length, 9])
    check_content(cache, plain)
    step(cache, plain, [2, 1], [0, 1], generator())
    cache.truncate_slot(1, 99)
    check_content(cache, plain)


def test_what_is_no_slot_or_cannot_be_shared() -> None:
    cache = make_cache(SHAPES, num_slots=2, pool_bytes=POOL)
    for act in (cache.share, lambda slot: cache.adopt(slot, (), 0),
                lambda slot: cache.truncate_slot(slot, 0)):  # fmt: skip
        with pytest.raises(CacheError, match=r"slots \[2\] are not distinct slots"):
            act(2)
    with pytest.raises(OptionError, match=r"0 blocks hold 0 tokens.* 1 of them"):
        cache.adopt(0, (), 1)
    static = make_cache(SHAPES, "static", max_cache_len=9)
    assert not static.pools
    static.release()  # has nothing to give
    for refused in (lambda: static.share(0), lambda: static.adopt(0, (), 0)):
        with pytest.raises(CacheError, match="static cache does not lie in blocks"):
            refused()


def test_a_slot_costs_its_own_blocks_alone() -> None:
    """64 slots of a token each, of which one comes to have 2,000."""
    cache = make_cache(SHAPES, num_slots=64, pool_bytes=POOL)
    of = Numbered(cache, [[] for _ in range(64)])
    of.feed([1] * 64)
    block = BLOCK * sum(4 * 2 * shape.num_kv_heads * shape.head_dim for shape in SHAPES)
    assert cache.num_bytes == 64 * block
    of.feed([1999, *[0] * 63])
    assert cache.num_bytes == (63 + 32) * block  # 32 hold 2,000
    of.feed([1] * 64)
    assert cache.num_bytes == (63 + 32) * block
    cache.truncate([1] * 64)
    assert cache.num_bytes == 64 * block


def test_a_full_pool() -> None:
    """What is needed, free and there, in words; and everything as it was."""
    with pytest.raises(OptionError, match="pool_bytes=9 holds no block: 64 tokens in 2 layers"):
        make_cache(SHAPES, pool_bytes=9)
    with pytest.raises(OptionError, match="pool_bytes=999 is for dynamic and sliding caches"):
        make_cache(SHAPES, "static", max_cache_len=3, pool_bytes=999)
    block = BLOCK * sum(4 * 2 * shape.num_kv_heads * shape.head_dim for shape in SHAPES)
    cache = make_cache(SHAPES, num_slots=3, pool_bytes=5 * block + 17)
    assert cache.pools
    assert cache.pools[0].num_blocks == 5
    of = Numbered(cache, [[], [], []])
    of.feed([130, 64, 0])
    message = r"2 more blocks of 64 tokens \(8.0 KiB\).* 1 of 5 \(20.0 KiB\) are free; trunc"
    with pytest.raises(CacheFullError, match=message):
        of.feed([0, 64, 1])
    with pytest.raises(CacheFullError, match="6 more blocks"):
        make_cache(SHAPES, pool_bytes=5 * block).update(
            torch.zeros(1, 1, 321, 2), torch.zeros(1, 1, 321, 2), 0
        )
    of.check()
    of.feed([0, 1, 0], fails=True)
    assert cache.pools[0].num_used == 4, "a step that failed keeps no block"
    cache.truncate_slot(0, 64)
    of.held[0] = of.held[0][:64]
    of.feed([0, 64, 1])
    of.check()


def test_what_was_in_a_block_before_is_never_seen() -> None:
    """Not even multiplied by zero, where it is no number."""
    outputs = []
    for poison in (0.0, torch.nan):
        cache = make_cache(SHAPES, num_slots=2, pool_bytes=POOL)
        for layer in cache.layers:
            for buffer in layer.buffers:
                buffer.fill_(poison)
        found = []
        for counts in ([70, 3], [1, 1], [0, 66], [2, 5]):
            source = torch.Generator().manual_seed(sum(counts))
            slots = [slot for slot in (0, 1) if counts[slot]]
            with cache.step(batch_of([counts[s] for s in slots], slots)) as stores:
                for store, shape in zip(stores, SHAPES, strict=True):
                    size = sum(counts), shape.num_kv_heads, shape.head_dim
                    q, k, v = torch.randn(3, *size, generator=source)
                    found.append(attend(q, store.append(k, v), AttentionSpec(0.5)))
        outputs.append(found)
    for clean, poisoned in zip(*outputs, strict=True):
        assert torch.equal(clean, poisoned)


def test_a_layer_of_other_heads() -> None:
    cache = make_cache(SHAPES, num_slots=2, pool_bytes=POOL)
    cache.reshape(1, KVShape(4, 5))
    for layer, (heads, width) in enumerate(((1, 2), (4, 5))):
        new = torch.full((2, heads, 65, width), float(layer + 1))
        cache.update(new, -new, layer)
    assert cache.layer(1)[1][1].shape == (4, 65, 5)
    assert cache.layer(1)[1][1].unique().tolist() == [-2]
    assert cache.layer(0)[1][0].unique().tolist() == [1]


def test_less_is_reserved_than_was_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reserve = memory.reserved

    def scarce(num_bytes: int) -> mmap.mmap | None:
        return reserve(num_bytes) if num_bytes <= POOL // 4 else None

    monkeypatch.setattr(memory, "reserved", scarce)
    with caplog.at_level(logging.WARNING, "kept"):
        cache = make_cache(SHAPES, pool_bytes=POOL)
    assert cache.pools
    assert f"reserves memory for {cache.pools[0].num_blocks} blocks" in caplog.text
    of = Numbered(cache, [[]])
    of.feed([cache.pools[0].num_blocks * BLOCK])
    of.check()
    monkeypatch.setattr(memory, "reserved", lambda _: None)
    with pytest.raises(CacheFullError, match="no room in memory for a block of 64 tokens"):
        make_cache(SHAPES, pool_bytes=POOL)


@needs_native
@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int4"])
@pytest.mark.parametrize("reserves", [True, False])
def test_adopted_tokens_give_the_bits_of_computed_ones(
    codec: str, reserves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on from a prefix that somebody else computed, and is going on from itself."""
    monkeypatch.setattr(block_memories, "CAN_RESERVE", reserves)
    model, random = native_model("llama", "bf16"), Random(3)
    prompt = [random.randrange(90) for _ in range(150)]
    cache = make_cache(model.kv_shapes, num_slots=3, kv_dtype=codec, pool_bytes=1 << 20)
    model.run(pack([prompt[:140]]), cache)
    for length in (140, 128, 100, 64, 3):
        cache.adopt(1, cache.share(0), length)
        cache.truncate_slot(2, 0)
        batch = pack(
            [prompt[140:141], prompt[length : length + 5], prompt[: length + 5]],
            past=[cache.lengths[0], length, 0],
            slots=[0, 1, 2],
            last_of=[True] * 3,
        )
        logits = model.next_logits(batch, cache).logits.clone()
        assert torch.equal(logits[1], logits[2]), length
        follow = pack([[7], [7]], past=cache.lengths[1:], slots=[1, 2], last_of=[True] * 2)
        model.next_logits(follow, cache)
        run = None
        for token in range(BLOCK):
            if run is None or not run.room:
                run = model.repeat((1, 2), cache)
            assert run is not None
            logits = run.run([token, token]).logits
            assert torch.equal(logits[0], logits[1]), (length, token)
