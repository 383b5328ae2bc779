"""`num_bytes` is what the allocator has given, to the byte: the storages behind a cache."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kept.cache import SCORES, Cache, KVShape, load_cache, make_cache
from kept.ops import KV_CODECS
from laws.grid_page import WIDTHS
from laws.kinds import KINDS, NAMES, Kind
from laws.rounding import pair_bytes
from laws.steps import filled, generator, step
from laws.storages import storage_bytes, tensors

every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


@every_kind
def test_it_counts_all_that_can_be_reached(kind: Kind, tmp_path: Path) -> None:
    """After every operation that makes buffers anew."""
    cache, plain = filled(kind)
    assert cache.num_bytes == storage_bytes(cache)
    cache.select([1, 0, 1])
    plain.select([1, 0, 1])
    step(cache, plain, [9, 1], [0, 2], generator())
    assert cache.num_bytes == storage_bytes(cache)
    cache.save(tmp_path / "cache")
    loaded = load_cache(tmp_path / "cache", kind.all_shapes, place=cache.place)
    joined = cache.concatenate([loaded])
    for each in (loaded, joined, kind.make(3)):
        assert each.num_bytes == storage_bytes(each)
    joined.reset()
    assert joined.num_bytes == storage_bytes(joined)


@every_kind
def test_what_forks_share_is_there_once(kind: Kind) -> None:
    cache, plain = filled(kind)
    twins = [cache.fork() for _ in range(3)]
    assert all(twin.num_bytes == cache.num_bytes == storage_bytes(twin) for twin in twins)
    assert storage_bytes(cache, *twins) == cache.num_bytes
    step(twins[0], plain, [1], [0], generator())
    pairs = zip(twins[0].layers, twins[0].layouts, strict=True)
    copied = [layer.num_bytes(layout) for layer, layout in pairs]
    for layer, lies in enumerate(kind.blocks):
        if lies:  # one block is copied, not all
            copied[layer] = 64 * kind.token_bytes(layer)
    assert storage_bytes(cache, *twins) == cache.num_bytes + sum(copied)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("codec", KV_CODECS)
def test_evicting_caches(score: str, codec: str, tmp_path: Path) -> None:
    shapes = (KVShape(1, 3), KVShape(2, 37), KVShape(2, 4, window=3))
    cache = make_cache(
        shapes, "evicting", num_slots=2, budget=6, grain=4, policy=score, kv_dtype=codec
    )
    assert cache.num_bytes == storage_bytes(cache)
    labels = 2 * 6 * 8 * (1 + 2)
    buffers = [x for layer in cache.layers[:2] for x in layer.buffers]
    assert cache.num_bytes >= labels + sum(x.nbytes for x in buffers)
    for each in (cache.fork(), cache.concatenate([cache])):
        assert each.num_bytes == storage_bytes(each)
    cache.save(tmp_path / "cache")
    assert load_cache(tmp_path / "cache", shapes).num_bytes == cache.num_bytes


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("codec", [*KV_CODECS, ("int4", "bfloat16")], ids=str)
def test_what_a_token_takes(
    codec: str | tuple[str, str], width: int, record_property: Callable[[str, object], None]
) -> None:
    """The allocator's bytes for one token more; `scripts/cache_grid` collects them."""
    sizes = [
        storage_bytes(make_cache([KVShape(1, width)], "static", max_cache_len=n, kv_dtype=codec))
        for n in (10, 11)
    ]
    each = sizes[1] - sizes[0]
    assert each == pair_bytes(codec, width)
    name = codec if isinstance(codec, str) else "{} keys, {} values".format(*codec)
    record_property("token bytes", [name, width, each])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("codec", KV_CODECS)
def test_it_is_what_the_devices_allocator_was_asked_for(codec: str) -> None:
    def requested() -> int:
        return int(torch.cuda.memory_stats()["requested_bytes.all.current"])

    before = requested()
    cache = make_cache((KVShape(3, 37),) * 2, "static", max_cache_len=77, num_slots=2,
                       kv_dtype=codec, device="cuda")  # fmt: skip
    assert requested() - before == cache.num_bytes


def test_a_cache_leads_to_its_own_tensors_alone() -> None:
    """So the law can fail: what a cache does not own is not found, and what it owns is."""
    cache, other = (make_cache([KVShape(1, 3)], num_slots=2) for _ in range(2))
    for each in (cache, other):
        each.update(torch.zeros(2, 1, 5, 3), torch.zeros(2, 1, 5, 3), 0)
    assert len(tensors(cache)) == 2
    extra = cache.__dict__
    extra["unknown"] = torch.zeros(7)
    assert storage_bytes(cache) == cache.num_bytes + 28
    assert isinstance(other, Cache)
    assert storage_bytes(cache, other) == 2 * cache.num_bytes + 28
