"""Any sequence of operations leaves a cache equal to plain lists of tokens."""

import gc
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from thinning import examples

from kept.batch import Batch
from kept.cache import Cache, load_cache
from kept.errors import CacheError, CacheFullError
from laws.kinds import KINDS, NAMES, Kind, give_inputs
from laws.plain import PlainCache
from laws.steps import Rows, batch_of, check_content, check_dense, random_rows, step, tokens_of

MAX_SLOTS = 4
MAX_FORKS = 3
COUNTS = st.one_of(st.just(1), st.integers(1, 3), st.integers(1, 14))
SETTINGS = settings(
    max_examples=examples(1, 7), stateful_step_count=12, suppress_health_check=list(HealthCheck)
)


class StepFailed(Exception):
    """What a failing layer raises."""


def store_and_fail(cache: Cache, batch: Batch, rows: Rows) -> None:
    """Store the first layers' rows, then raise."""
    with cache.step(batch) as stores:
        for store, (k, v) in zip(stores[:2], rows, strict=False):
            store.append(k, v)
        raise StepFailed


class CacheMachine(RuleBasedStateMachine):
    """Caches with their models; an operation picks one of them."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.pairs: list[tuple[Cache, PlainCache]] = []
        self.generator = torch.Generator().manual_seed(0)

    @initialize(num_slots=st.integers(1, 3))
    def start(self, num_slots: int) -> None:
        self.pairs = [(self.kind.make(num_slots), PlainCache.empty(self.kind, num_slots))]

    def pick(self, data: st.DataObject) -> tuple[Cache, PlainCache]:
        return self.pairs[data.draw(st.integers(0, len(self.pairs) - 1), label="cache")]

    def draw_step(self, data: st.DataObject, cache: Cache) -> tuple[list[int], list[int]]:
        order = data.draw(st.permutations(range(cache.num_slots)), label="order")
        slots = order[: data.draw(st.integers(1, cache.num_slots), label="sequences")]
        counts = [data.draw(COUNTS, label="tokens") for _ in slots]
        return counts, slots

    def fits(self, cache: Cache, counts: list[int], slots: list[int]) -> bool:
        limit = self.kind.limit
        ends = [cache.lengths[s] + n for s, n in zip(slots, counts, strict=True)]
        return limit is None or max(ends) <= limit

    @rule(
        data=st.data(), share=st.sampled_from((1, 2, 4)), softcap=st.sampled_from((None, None, 2.0))
    )
    def append(self, data: st.DataObject, share: int, softcap: float | None) -> None:
        cache, plain = self.pick(data)
        counts, slots = self.draw_step(data, cache)
        if self.fits(cache, counts, slots):
            step(cache, plain, counts, slots, self.generator, share, softcap)
        else:
            with pytest.raises(CacheFullError), cache.step(batch_of(counts, slots)):
                raise AssertionError("a step that does not fit must not begin")

    @rule(data=st.data(), num_stored=st.integers(0, 2), poison=st.booleans())
    def fail(self, data: st.DataObject, num_stored: int, poison: bool) -> None:
        cache, _ = self.pick(data)
        counts, slots = self.draw_step(data, cache)
        if not self.fits(cache, counts, slots):
            return
        rows = random_rows(self.kind, sum(counts), self.generator)
        stored = rows[:num_stored]
        if poison:
            stored = [(k * torch.nan, v * torch.nan) for k, v in stored]
        with pytest.raises(StepFailed):
            store_and_fail(cache, batch_of(counts, slots), stored)

    def update_args(
        self, cache: Cache, count: int
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[int], list[int]]:
        counts, slots = [count] * cache.num_slots, list(range(cache.num_slots))
        return random_rows(self.kind, sum(counts), self.generator), counts, slots

    @rule(data=st.data(), count=COUNTS, order=st.permutations((0, 1)))
    def update(self, data: st.DataObject, count: int, order: list[int]) -> None:
        cache, plain = self.pick(data)
        rows, counts, slots = self.update_args(cache, count)
        padded = [
            tuple(x.unflatten(0, (len(slots), count)).transpose(1, 2) for x in pair)
            for pair in rows
        ]
        if not self.fits(cache, counts, slots):
            with pytest.raises(CacheFullError):
                cache.update(*padded[order[0]], order[0])
            return
        plain.append(slots, tokens_of(rows, counts))
        before = cache.lengths
        for layer in order:
            assert cache.lengths == before
            check_dense(cache.update(*padded[layer], layer), plain, layer, slots, counts)

    @rule(data=st.data(), count=COUNTS, layer=st.integers(0, 1))
    def update_and_abandon(self, data: st.DataObject, count: int, layer: int) -> None:
        cache, _ = self.pick(data)
        rows, counts, slots = self.update_args(cache, count)
        if not self.fits(cache, counts, slots):
            return
        k, v = (x.unflatten(0, (len(slots), count)).transpose(1, 2) for x in rows[layer])
        cache.update(k * torch.nan, v * torch.nan, layer)
        with pytest.raises(CacheError, match="twice"):
            cache.update(k, v, layer)
        if data.draw(st.booleans(), label="abandon by name"):
            cache.abandon()
        else:
            cache.truncate(max(cache.lengths))

    @rule(data=st.data(), one=st.booleans())
    def truncate(self, data: st.DataObject, one: bool) -> None:
        cache, plain = self.pick(data)
        drop = st.one_of(st.integers(-1, 3), st.integers(0, 40))
        if one:
            lengths = [max(0, max(plain.lengths) - data.draw(drop))] * cache.num_slots
        else:
            lengths = [max(0, n - data.draw(drop)) for n in plain.lengths]
        request = lengths[0] if one else lengths
        if all(plain.can_truncate(slot, n) for slot, n in enumerate(lengths)):
            cache.truncate(request)
            plain.truncate(lengths)
        else:
            with pytest.raises(CacheError, match="cannot go back"):
                cache.truncate(request)

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        cache, plain = self.pick(data)
        cache.reset()
        plain.truncate([0] * cache.num_slots)

    @precondition(lambda self: self.kind.cross)
    @rule(data=st.data(), seed=st.integers(0, 9))
    def read_an_input(self, data: st.DataObject, seed: int) -> None:
        """Slots without tokens take new inputs; one with tokens keeps its own."""
        cache, plain = self.pick(data)
        count = data.draw(st.integers(1, cache.num_slots), label="inputs")
        slots = data.draw(st.permutations(range(cache.num_slots)), label="order")[:count]
        inputs = self.kind.inputs(count, seed)
        if any(cache.lengths[slot] for slot in slots):
            with pytest.raises(CacheError, match="attended another input"):
                give_inputs(cache, slots, inputs)
        else:
            give_inputs(cache, slots, inputs)
            plain.give_inputs(slots, inputs)

    @precondition(lambda self: len(self.pairs) < MAX_FORKS)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        cache, plain = self.pick(data)
        self.pairs.append((cache.fork(), plain.copy()))

    @rule(data=st.data())
    def save_and_load(self, data: st.DataObject) -> None:
        """The cache from the file takes the place of the one that was saved."""
        cache, plain = self.pick(data)
        with TemporaryDirectory() as folder:
            cache.save(Path(folder, "cache"), fingerprint="a model")
            loaded = load_cache(
                Path(folder, "cache"),
                self.kind.all_shapes,
                fingerprint="a model",
                in_blocks=self.kind.in_blocks,
            )
        index = next(i for i, pair in enumerate(self.pairs) if pair[0] is cache)
        self.pairs[index] = (loaded, plain)

    @precondition(lambda self: len(self.pairs) > 1)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.pairs.remove(self.pick(data))

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        cache, plain = self.pick(data)
        slot = st.integers(0, cache.num_slots - 1)
        sources = data.draw(st.lists(slot, min_size=cache.num_slots, max_size=cache.num_slots))
        cache.reorder(sources)
        plain.select(sources)

    @rule(data=st.data())
    def select(self, data: st.DataObject) -> None:
        cache, plain = self.pick(data)
        slot = st.integers(0, cache.num_slots - 1)
        sources = data.draw(st.lists(slot, min_size=1, max_size=MAX_SLOTS))
        cache.select(sources)
        plain.select(sources)
        assert cache.num_slots == len(sources)

    @rule(data=st.data(), count=st.integers(1, 2))
    def repeat(self, data: st.DataObject, count: int) -> None:
        cache, plain = self.pick(data)
        if cache.num_slots * count <= MAX_SLOTS:
            sources = [slot for slot in range(cache.num_slots) for _ in range(count)]
            cache.repeat(count)
            plain.select(sources)

    @rule(data=st.data())
    def concatenate(self, data: st.DataObject) -> None:
        """Two of them, or one twice, take the place of the first."""
        (cache, plain), (other, other_plain) = self.pick(data), self.pick(data)
        if cache.num_slots + other.num_slots <= MAX_SLOTS:
            index = next(i for i, pair in enumerate(self.pairs) if pair[0] is cache)
            self.pairs[index] = (cache.concatenate([other]), plain.concatenate(other_plain))

    @invariant()
    def equal_to_the_lists(self) -> None:
        for cache, plain in self.pairs:
            check_content(cache, plain)
            probe, probed = cache.fork(), plain.copy()
            slots = list(range(cache.num_slots))
            if self.fits(probe, [1] * len(slots), slots):
                step(probe, probed, [1] * len(slots), slots, self.generator, share=2)
            assert cache.lengths == plain.lengths

    def teardown(self) -> None:
        self.pairs.clear()
        gc.collect()


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_operations_in_any_order(kind: Kind) -> None:
    run_state_machine_as_test(lambda: CacheMachine(kind), settings=SETTINGS)
