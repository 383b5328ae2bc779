"""Layers with a window let go of what it has passed, and nothing that is attended tells.

Whatever is done to a cache is done to one that keeps all tokens, too, and both attend the same
bits; blocks that nobody holds are no numbers meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kept import machine
from kept.blocks import BLOCK, Stack
from kept.cache import Cache, KVShape, Place, block_layout, load_cache, make_cache, most_blocks
from kept.cache.block_layout import BlockLayout
from kept.errors import CacheError, CacheFullError, OptionError
from kept.ops import AttentionSpec, attend, attend_stored
from laws.kinds import NothingStays
from laws.steps import batch_of
from laws.storages import storage_bytes

NUM_SLOTS, POOL = 3, 4 << 20
SHAPES = (KVShape(1, 4, 20), KVShape(2, 8), KVShape(1, 4, 20), KVShape(1, 4, 1), KVShape(2, 4, 200))


@dataclass
class Both:
    """A cache that lets go and one that keeps all, fed with the same; what was shared of both.

    sliding: (window, sinks) that the first one attends in every layer, None: each layer's own
    window. place: where it lies.
    """

    codec: str
    lets_go: Cache
    keeps: Cache
    numbers: torch.Generator
    shapes: tuple[KVShape, ...] = SHAPES
    sliding: tuple[int, int] | None = None
    place: Place | None = None
    shared: list[tuple[Sequence[Stack], Sequence[Stack], int]] = field(default_factory=list)

    @classmethod
    def made(cls, codec: str) -> Both:
        """Without tokens."""
        of = [
            make_cache(SHAPES, num_slots=NUM_SLOTS, kv_dtype=codec, pool_bytes=POOL, keeps_all=all)
            for all in (False, True)
        ]
        return cls(codec, *of, torch.Generator().manual_seed(3))

    @classmethod
    def made_sliding(cls, codec: str, window: int, sinks: int, *, in_files: bool) -> Both:
        """A sliding cache and a dynamic one, whose queries see no more than it keeps."""
        shapes = tuple(replace(shape, window=None) for shape in SHAPES)
        place = NothingStays(Path(__file__).parent, 1 << 30) if in_files else None
        slides = make_cache(
            shapes,
            "sliding",
            num_slots=NUM_SLOTS,
            sliding_window=window,
            num_sinks=sinks,
            kv_dtype=codec,
            pool_bytes=None if in_files else POOL,
            place=place,
        )
        keeps = make_cache(shapes, num_slots=NUM_SLOTS, kv_dtype=codec, pool_bytes=POOL)
        numbers = torch.Generator().manual_seed(3)
        return cls(codec, slides, keeps, numbers, shapes, (window, sinks), place)

    @property
    def sunk(self) -> int:
        """Tokens in the blocks of sinks."""
        return 0 if self.sliding is None else -(-self.sliding[1] // BLOCK) * BLOCK

    def spec(self, cache: Cache, shape: KVShape) -> AttentionSpec:
        """How a layer of one of the caches attends."""
        if self.sliding is None or cache is self.lets_go:
            return AttentionSpec(0.4, window=shape.window)
        return AttentionSpec(0.4, window=self.sliding[0], sinks=self.sliding[1])

    def window(self, shape: KVShape) -> int | None:
        """How many of the last tokens a layer attends."""
        return shape.window if self.sliding is None else self.sliding[0]

    @property
    def caches(self) -> tuple[Cache, Cache]:
        """Both of them."""
        return self.lets_go, self.keeps

    def feed(self, counts: Sequence[int], *, fails: bool = False) -> None:
        """New tokens for the slots, which attend what there is."""
        slots = [slot for slot, count in enumerate(counts) if count]
        total = sum(counts)
        if not slots:
            return
        rows = [
            [torch.randn(total, s.num_kv_heads, s.head_dim, generator=self.numbers) for _ in "qkv"]
            for s in self.shapes
        ]
        lengths = self.lets_go.lengths
        found: list[list[Tensor]] = [[], []]
        for cache, out in zip(self.caches, found, strict=True):
            with (
                suppress(ZeroDivisionError),
                cache.step(batch_of([counts[slot] for slot in slots], slots)) as stores,
            ):
                for store, shape, (q, k, v) in zip(stores, self.shapes, rows, strict=True):
                    view = store.append(k, v)
                    spec = self.spec(cache, shape)
                    out.append(attend_stored(q, view, spec))
                    torch.testing.assert_close(attend(q, view, spec), out[-1], rtol=0, atol=2e-2)
                if fails:
                    raise ZeroDivisionError
        for lets_go, keeps in zip(*found, strict=True):
            assert lets_go.isfinite().all()
            if machine.NATIVE_AVAILABLE:
                assert torch.equal(lets_go, keeps)
            else:
                torch.testing.assert_close(lets_go, keeps, rtol=0, atol=1e-5)
        assert not fails or self.lets_go.lengths == lengths

    def check(self) -> None:
        """What is held is what the other cache holds, and no more than windows need."""
        assert self.lets_go.lengths == self.keeps.lengths
        for layer, shape in enumerate(self.shapes):
            begin = 0
            for slot, held in enumerate(self.lets_go.held(layer)):
                length, window = self.lets_go.lengths[slot], self.window(shape)
                first = next((n for n in held[0].tolist() if n >= self.sunk), length)
                assert held[0].tolist() == [*range(min(self.sunk, length)), *range(first, length)]
                assert window is None or first <= max(0, self.sunk, length - window)
                begin = max(begin, first)
            mine, theirs = (cache.layer(layer, begin) for cache in self.caches)
            for pairs in zip(mine, theirs, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
        assert self.lets_go.num_bytes == storage_bytes(self.lets_go)

    def poison(self) -> None:
        """Let blocks that nobody has be no numbers."""
        held = [set(ids) for ids in self.lets_go.held_ids]
        for stacks, _, _ in self.shared:
            for stack in stacks:
                for ids, block in zip(held, stack.blocks, strict=True):
                    ids |= set() if block is None else {block.id}
        layouts = [x for x in dict.fromkeys(self.lets_go.layouts) if isinstance(x, BlockLayout)]
        for ids, layout in zip(held, layouts, strict=True):
            others = sorted(set(range(layout.memory.pool._untaken)) - ids)
            for buffer in (x for layer in layout.memory.buffers for x in layer):
                if buffer.is_floating_point():
                    buffer[others] = torch.nan
                else:
                    buffer[others] = 99

    def can_go_back(self, slot: int, length: int) -> bool:
        """Whether the slot still has what a token behind so many sees."""
        for layer, window in enumerate(map(self.window, self.shapes)):
            held = set(self.lets_go.held(layer)[slot][0].tolist())
            begin = 0 if window is None else max(0, min(length - window + 1, length - 1))
            if not held.issuperset(range(begin, length)):
                return False
        return True


Act = Callable[[Both, Random], None]


def act_feed(of: Both, random: Random) -> None:
    of.feed([random.choice((0, 1, 2, 63, 64, 150, 333)) for _ in range(NUM_SLOTS)])


def act_fail(of: Both, random: Random) -> None:
    of.feed([random.choice((0, 1, 70)) for _ in range(NUM_SLOTS)], fails=True)


def act_truncate(of: Both, random: Random) -> None:
    """By 64 tokens always, and else as far as there is what is seen."""
    slot = random.randrange(NUM_SLOTS)
    before = of.lets_go.lengths[slot]
    length = max(0, before - random.choice((0, 1, 60, 64, 65, 100, 130, 999)))
    can = of.can_go_back(slot, length)
    if can or before - length <= BLOCK:
        for cache in of.caches:
            cache.truncate_slot(slot, length)
    else:
        with pytest.raises(CacheError, match=f"cannot go back to {length}.*keeps_all"):
            of.lets_go.truncate_slot(slot, length)


def act_reorder(of: Both, random: Random) -> None:
    order = [random.randrange(NUM_SLOTS) for _ in range(NUM_SLOTS)]
    for cache in of.caches:
        cache.reorder(order)


def act_repeat(of: Both, random: Random) -> None:
    for cache in of.caches:
        cache.repeat(2)
        cache.select([0, 3, 4])


def act_fork(of: Both, random: Random) -> None:
    of.lets_go, of.keeps = of.lets_go.fork(), of.keeps.fork()


def act_share(of: Both, random: Random) -> None:
    slot = random.randrange(NUM_SLOTS)
    mine, theirs = (cache.share(slot) for cache in of.caches)
    of.shared.append((mine, theirs, of.lets_go.lengths[slot]))


def act_adopt(of: Both, random: Random) -> None:
    if not of.shared:
        return
    mine, theirs, most = random.choice(of.shared)
    slot, length = random.randrange(NUM_SLOTS), max(0, most - random.choice((0, 1, 30, 64, 200)))
    if most - length <= BLOCK:  # as far as one can always go back
        of.lets_go.adopt(slot, mine, length)
        of.keeps.adopt(slot, theirs, length)
        return
    with suppress(CacheError):
        of.lets_go.adopt(slot, mine, length)
        of.keeps.adopt(slot, theirs, length)


def act_concatenate(of: Both, random: Random) -> None:
    """With a copy in the same memory, or in another."""
    other = [cache.fork() for cache in of.caches]
    if random.random() < 0.5:
        other = [loaded(of, cache, keeps) for cache, keeps in zip(other, (0, 1), strict=True)]
    of.lets_go = of.lets_go.concatenate([other[0]])
    of.keeps = of.keeps.concatenate([other[1]])
    for cache in of.caches:
        cache.select([3, 1, 5])


def act_save(of: Both, random: Random) -> None:
    of.lets_go, of.keeps = loaded(of, of.lets_go, 0), loaded(of, of.keeps, 1)
    of.shared = []  # which is of the memory before


def loaded(of: Both, cache: Cache, keeps_all: int) -> Cache:
    """As a file gives it back."""
    place = None if keeps_all else of.place
    with TemporaryDirectory() as folder:
        cache.save(Path(folder, "cache"))
        found = load_cache(Path(folder, "cache"), of.shapes, pool_bytes=POOL, place=place)
    assert len(found.pools) == (1 if keeps_all or of.sliding else 4)
    return found


ACTS: dict[str, Act] = {
    name.removeprefix("act_"): act for name, act in globals().items() if name.startswith("act_")
}
acts = st.lists(
    st.tuples(st.sampled_from([*ACTS, "feed", "feed", "feed"]), st.integers(0, 999)),
    min_size=1,
    max_size=10,
)


def played(of: Both, acts: Sequence[tuple[str, int]]) -> None:
    of.feed([300, 70, 1])
    for name, seed in acts:
        if max(of.lets_go.lengths) > 900:
            of.lets_go.reset()
            of.keeps.reset()
        of.poison()
        ACTS[name](of, Random(seed))
        of.check()
    pools = of.lets_go.pools
    del of
    assert [pool.num_used for pool in pools] == [0] * len(pools)


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int4"])
@settings(max_examples=8)
@given(acts=acts)
def test_what_is_let_go_changes_no_bit(codec: str, acts: list[tuple[str, int]]) -> None:
    played(Both.made(codec), acts)


@pytest.mark.parametrize("codec", ["float32", "int4"])
@pytest.mark.parametrize("in_files", [False, True])
@settings(max_examples=6)
@given(acts=acts, window=st.sampled_from((1, 20, 64, 130)), sinks=st.sampled_from((0, 1, 64, 70)))
def test_a_sliding_cache_attends_what_a_dynamic_one_would_show(
    codec: str, in_files: bool, acts: list[tuple[str, int]], window: int, sinks: int
) -> None:
    played(Both.made_sliding(codec, window, sinks, in_files=in_files), acts)


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(
    "passed",
    [
        lambda window, length, sinks: range(-(-sinks // BLOCK), -(-length // BLOCK) - 1),
        lambda window, length, sinks: range(max(0, length - window // 2) // BLOCK),
        lambda window, length, sinks: range(max(0, length - 64 - window) // BLOCK),
    ],
)
def test_this_law_can_fail(
    passed: Callable[[int, int, int], range], sliding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not sliding and passed(9, 300, 0) == range(3):
        return  # which forgets the sinks alone
    monkeypatch.setattr(
        block_layout, "passed_blocks", lambda w, n, s: passed(w, n, s) if w else range(0)
    )
    of = Both.made_sliding("float32", 70, 2, in_files=False) if sliding else Both.made("float32")
    with pytest.raises(AssertionError):
        played(of, [("feed", seed) for seed in range(20)])


def test_memory_stays_what_windows_take() -> None:
    """However long a sequence becomes; layers of a window have blocks of their own."""
    cache = make_cache((KVShape(1, 4, 100), KVShape(1, 4), KVShape(1, 4, 100)), pool_bytes=POOL)
    windowed, whole = cache.pools
    for _ in range(40):
        with cache.step(batch_of([64], [0])) as stores:
            for store in stores:
                store.append(torch.ones(64, 1, 4), torch.ones(64, 1, 4))
        del stores, store  # which know the step's blocks
        assert windowed.num_used <= 3 < most_blocks(100, 10_000, 64)
    assert whole.num_used == 40
    assert windowed.num_used == 3  # of the window, and of 64 tokens before it
    assert cache.num_bytes == (40 + 2 * 3) * BLOCK * 2 * 4 * 4
    with pytest.raises(CacheError, match=r"no longer holds tokens 0 to 2368 in layers.*keeps_all"):
        cache.layer(0)
    assert cache.layer(1)[0][0].shape == (1, 2560, 4)


def test_groups_share_one_budget() -> None:
    """What one has not taken another may, and what was let go is another's."""
    shapes = (KVShape(1, 4, 10), KVShape(3, 4))
    narrow, wide = (BLOCK * 2 * 4 * 4 * heads for heads in (1, 3))
    cache = make_cache(shapes, num_slots=2, pool_bytes=4 * (narrow + wide))
    rows = {n: [torch.ones(n, s.num_kv_heads, 4) for s in shapes] for n in (64, 256)}

    def feed(slot: int, count: int) -> None:
        with cache.step(batch_of([count], [slot])) as stores:
            for store, row in zip(stores, rows[count], strict=True):
                store.append(row, row)

    feed(0, 64)
    feed(0, 64)
    feed(0, 64)
    feed(0, 64)
    [budget] = {pool.budget for pool in cache.pools}
    assert num_used(cache) == 4 * wide + 2 * narrow
    with pytest.raises(CacheFullError, match="1 more blocks"):
        feed(1, 64)
    assert num_used(cache) == 4 * wide + 2 * narrow
    cache.truncate_slot(0, 0)
    assert num_used(cache) == 0
    feed(1, 256)
    assert num_used(cache) == 4 * wide + 2 * narrow
    cache.release()
    assert budget.taken == num_used(cache)


def num_used(cache: Cache) -> int:
    """Bytes of the blocks that somebody holds."""
    return sum(pool.num_used * pool.block_bytes for pool in cache.pools)


def test_what_keeps_all_can_go_anywhere_and_what_is_refused() -> None:
    with pytest.raises(OptionError, match="keeps_all=True is for dynamic caches, not static"):
        make_cache(SHAPES, "static", max_cache_len=3, keeps_all=True)
    of = Both.made("float32")
    of.feed([500, 0, 0])
    of.keeps.truncate(3)
    assert of.keeps.lengths == (3, 0, 0)
    stacks = of.lets_go.share(0)
    with pytest.raises(CacheError, match="adopted of 128 tokens lacks some before token"):
        of.lets_go.adopt(1, stacks, 128)
    assert of.lets_go.lengths == (500, 0, 0)


def test_a_file_of_windows_lies_in_blocks_alone(tmp_path: Path) -> None:
    of = Both.made("float32")
    of.feed([500, 0, 3])
    of.lets_go.save(tmp_path / "cache")
    with pytest.raises(CacheError, match="cannot lie in runs or in files; leave place and in_bl"):
        load_cache(tmp_path / "cache", SHAPES, in_blocks=False)


def test_what_one_group_has_let_go_takes_no_memory_from_another() -> None:
    """Pages of all groups together stay within the budget, whichever has most of them."""
    shapes = (KVShape(8, 64, 10), KVShape(8, 64))
    block = BLOCK * 2 * 8 * 64 * 4
    cache = make_cache(shapes, num_slots=10, pool_bytes=20 * block)
    for _ in range(2):
        for counts in ([64] * 10, [64 * 15, *[0] * 9]):
            slots = [slot for slot, count in enumerate(counts) if count]
            row = torch.ones(sum(counts), 8, 64)
            for done in range(0, max(counts), 64):
                with cache.step(batch_of([64] * len(slots), slots)) as stores:
                    for store in stores:
                        store.append(row[: 64 * len(slots)], row[: 64 * len(slots)])
                del stores, store  # which know the step's blocks
                assert sum(pool.num_reserved for pool in cache.pools) <= 20, done
                assert cache.pools[0].budget.taken <= 20 * block
            cache.truncate(0)
