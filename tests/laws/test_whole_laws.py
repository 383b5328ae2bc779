"""An operation happens or does not: memory that ends and Ctrl-C, wherever they come, leave a cache
as it was or as it was to become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
import torch
from interrupting import interrupted, some_of
from torch import Tensor

from kept.batch import pack
from kept.blocks import Block, BlockPool
from kept.cache import Cache, KVShape, make_cache
from kept.errors import CacheFullError
from kept.machine import NATIVE_AVAILABLE
from laws.kinds import KINDS, random_rows
from laws.steps import batch_of, generator, storing
from laws.tiny import native_model

LISTED = (
    "dynamic",
    "static-int4",
    "sliding-5-sinks-2",
    "mixed-int8",
    "cross-shared-mixed",
    "dynamic-offloaded",
)
SHAPES = (KVShape(1, 3), KVShape(2, 4))
MOST = 6  # lines that are tried of an operation


@dataclass(frozen=True)
class Made:
    """A kind of cache, and how to make one of two slots."""

    name: str
    make: Callable[[], Cache]


MADE = (
    *(Made(kind.name, lambda kind=kind: kind.make(2)) for kind in KINDS if kind.name in LISTED),
    Made("evicting", lambda: make_cache(SHAPES, "evicting", num_slots=2, budget=6, grain=4)),
)
assert len(MADE) == len(LISTED) + 1, "a name of no kind"
every_kind = pytest.mark.parametrize("made", MADE, ids=[made.name for made in MADE])


def feed(cache: Cache, counts: Sequence[int], seed: int = 1) -> list[Tensor]:
    """A step of random tokens; returns all that its layers may attend."""
    shapes = [shape for shape in cache.shapes if shape.shares is None and not shape.cross]
    rows = random_rows(shapes, sum(counts), torch.Generator().manual_seed(seed))
    seen: list[Tensor] = []
    with cache.step(batch_of(counts, range(len(counts)))) as stores:
        for store, (k, v) in zip(storing(stores), rows, strict=True):
            seen += store.append(k, v).dense()
        for store in stores[len(rows) :]:
            seen += store.read().dense()
    return seen


def filled(made: Made) -> Cache:
    """Slots of 11 and 9 tokens."""
    cache = made.make()
    for counts in ([4, 4], [4, 4], [3, 1]):
        feed(cache, counts)
    return cache


def update(cache: Cache) -> None:
    """A token of each slot, layer after layer."""
    shapes = [shape for shape in cache.shapes if shape.shares is None and not shape.cross]
    for index, (k, v) in enumerate(random_rows(shapes, 2, generator())):
        cache.update(k[:, :, None], v[:, :, None], index)


OPERATIONS: dict[str, Callable[[Cache], object]] = {
    "select": lambda cache: cache.select([1, 0, 1]),
    "select one": lambda cache: cache.select([1]),
    "reorder": lambda cache: cache.reorder([1, 0]),
    "reorder one": lambda cache: cache.reorder([1, 1]),
    "repeat": lambda cache: cache.repeat(3),
    "truncate": lambda cache: cache.truncate([10, 9]),
    "reset": lambda cache: cache.reset(),
    "fork": lambda cache: feed(cache.fork(), [1, 1]),
    "concatenate": lambda cache: cache.concatenate([cache, cache]),
    "step": lambda cache: feed(cache, [1, 3]),
    "long step": lambda cache: feed(cache, [1, 60]),
    "update": update,
}
TAKE_BLOCKS = ("fork", "step", "long step", "update")
MAKE_BUFFERS = ("select", "reorder", "reorder one", "repeat", "concatenate", "long step")


def operations(made: Made) -> Iterator[tuple[str, Callable[[Cache], object]]]:
    for name, act in OPERATIONS.items():
        if name == "long step" and made.name.startswith(("evicting", "static")):
            continue  # no step may pass an eviction, or the end
        yield name, act


@dataclass(frozen=True)
class Print:
    """What can be told from outside of what a cache holds."""

    lengths: tuple[int, ...]
    inputs: tuple[int, ...]
    num_bytes: int
    next: tuple[bytes, ...]

    @classmethod
    def of(cls, cache: Cache) -> Print:
        """Takes the cache a step on."""
        found = cls(cache.lengths, cache.input_lengths, cache.num_bytes, ())
        seen = feed(cache, [1] * cache.num_slots, seed=9)
        assert all(x.isfinite().all() for y in cache.layers if y.zeroes for x in y.buffers)
        return replace(found, next=tuple(x.contiguous().numpy().tobytes() for x in seen))

    def is_one_of(self, before: Print, after: Print, steps: bool) -> bool:
        """steps: room that a step has made may stay."""
        same = [x for x in (before, after) if replace(x, num_bytes=self.num_bytes) == self]
        if steps:
            return bool(same) and self.num_bytes >= before.num_bytes
        return self in (before, after)


def prints(base: Cache, act: Callable[[Cache], object]) -> tuple[Print, Print]:
    after = apart(base)
    act(after)
    return Print.of(apart(base)), Print.of(after)


def apart(base: Cache) -> Cache:
    """A copy that shares no buffer with it."""
    return base.concatenate([])


@every_kind
@pytest.mark.parametrize("shares", [False, True], ids=["alone", "forked"])
def test_wherever_room_ends(made: Made, shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    base = filled(made)
    zeros = base.place.zeros
    room = 0

    def scarce(size: Sequence[int], dtype: torch.dtype) -> Tensor:
        nonlocal room
        room -= 1
        if room < 0:
            raise CacheFullError("no room")
        return zeros(size, dtype)

    def scarce_blocks(pool: BlockPool, count: int) -> list[Block]:
        nonlocal room
        room -= bool(count)
        if room < 0:
            raise CacheFullError("no room")
        return take(pool, count)

    take = BlockPool.take
    for name, act in operations(made):
        before, after = prints(base, act)
        for allowed in range(1000):
            cache = apart(base)
            twin = cache.fork() if shares else None
            with monkeypatch.context() as patch, suppress(CacheFullError):
                room = allowed
                patch.setattr(base.place, "zeros", scarce)
                patch.setattr(BlockPool, "take", scarce_blocks)
                act(cache)
                break
            assert Print.of(cache).is_one_of(before, before, "step" in name), (name, allowed)
            assert twin is None or Print.of(twin) == before, (name, allowed)
        else:
            raise AssertionError(name)
        if base.pools:
            assert allowed or name not in TAKE_BLOCKS, "nothing was tried"
        else:
            assert allowed or not (shares or name in MAKE_BUFFERS), "nothing was tried"
        assert Print.of(cache).is_one_of(after, after, "step" in name), name


@every_kind
@pytest.mark.parametrize("shares", [False, True], ids=["alone", "forked"])
def test_ctrl_c_wherever_it_comes(made: Made, shares: bool) -> None:
    base = filled(made)
    for name, act in operations(made):
        before, after = prints(base, act)
        whole = apart(base)
        count = interrupted(lambda act=act, whole=whole: act(whole), None, "cache")
        for at in some_of(count, MOST, (made.name, name, shares)):
            cache = apart(base)
            twin = cache.fork() if shares else None
            with suppress(KeyboardInterrupt):
                interrupted(lambda act=act, cache=cache: act(cache), at, "cache")
            steps = "step" in name or name == "update"
            assert Print.of(cache).is_one_of(before, after, steps), (name, at)
            assert twin is None or Print.of(twin) == before, (name, at)


@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="installed without a C++ compiler")
def test_a_native_step_after_ctrl_c() -> None:
    """The buffers that kernels were handed are those that the cache has."""
    model = native_model("llama", "bf16")
    base = make_cache(model.kv_shapes, num_slots=2, dtype=model.dtype)
    model.next_logits(pack([[1, 2, 3] * 20, [4, 5] * 30], last_of=[True] * 2), base)

    def decode(cache: Cache, count: int = 1) -> list[Tensor]:
        found = []
        for _ in range(count):
            slots = range(cache.num_slots)
            batch = pack([[7]] * len(slots), past=cache.lengths, last_of=[True] * len(slots))
            found.append(model.next_logits(batch, cache).logits.clone())
            run = model.repeat(tuple(slots), cache)
            if run is not None:
                found.append(run.run([8] * len(slots)).logits.clone())
        return found

    acts: dict[str, Callable[[Cache], object]] = {
        "decode": lambda cache: decode(cache, 3),  # grows on the way
        "select": lambda cache: cache.select([1, 0, 1]),
        "reorder one": lambda cache: cache.reorder([1, 1]),
        "truncate": lambda cache: cache.truncate([50, 60]),
    }
    for name, act in acts.items():
        whole = apart(base)
        count = interrupted(lambda act=act, whole=whole: act(whole), None, "cache", "models")
        for at in some_of(count, 15, name):
            cache = apart(base)
            decode(cache)  # kernels know its buffers
            cache.truncate(base.lengths)
            with suppress(KeyboardInterrupt):
                interrupted(lambda act=act, cache=cache: act(cache), at, "cache", "models")
            twin = made_anew(base, cache, name)
            assert cache.lengths == twin.lengths, (name, at)
            for a, b in zip(decode(cache), decode(twin), strict=True):
                assert torch.equal(a, b), (name, at)


def made_anew(base: Cache, cache: Cache, name: str) -> Cache:
    """What a cache with these lengths holds, if all that it holds is of one state."""
    twin = apart(base)
    if name == "decode":
        return decoded(twin, cache.lengths)
    if name == "reorder one":
        same = torch.equal(cache.layer(0)[0][0], base.layer(0)[0][0])
        if not same:
            twin.reorder([1, 1])
    elif cache.lengths != base.lengths:
        if name == "truncate":
            twin.truncate(cache.lengths)
        else:
            twin.select([1, 0, 1])
    return twin


def decoded(cache: Cache, lengths: Sequence[int]) -> Cache:
    """The tokens that `decode` brings, up to some length."""
    model = native_model("llama", "bf16")
    token = 7
    while cache.lengths != tuple(lengths):
        model.next_logits(pack([[token]] * 2, past=cache.lengths, last_of=[True] * 2), cache)
        token = 15 - token
    return cache
