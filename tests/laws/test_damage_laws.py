"""A saved cache that was damaged, cut, spliced or is another's: an error, never a wrong number."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thinning import examples
from torch import Tensor

from kept.cache import Cache, KVShape, load_cache, make_cache
from kept.cache.file_tensors import VERSION
from kept.errors import CacheError
from kept.ops import KV_CODECS
from laws.kinds import KINDS, NAMES
from laws.steps import batch_of, filled, generator, random_rows, storing

FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
EVICTING = (KVShape(1, 3), KVShape(2, 37))


def evicting(codec: str) -> Cache:
    """Two slots that have dropped tokens."""
    cache = make_cache(EVICTING, "evicting", num_slots=2, budget=6, grain=4, kv_dtype=codec)
    source = torch.Generator().manual_seed(3)
    for count in (4, 4, 3):
        for layer, shape in enumerate(EVICTING):
            size = 2, shape.num_kv_heads, count, shape.head_dim
            k, v = torch.randn(2, *size, generator=source)
            cache.update(k, v, layer)
    return cache


def of_kind(index: int) -> Callable[[], Cache]:
    return lambda: filled(KINDS[index])[0]


CACHES: dict[str, Callable[[], Cache]] = {name: of_kind(i) for i, name in enumerate(NAMES)}
CACHES |= {f"evicting-{codec}": lambda codec=codec: evicting(codec) for codec in KV_CODECS}
every_cache = pytest.mark.parametrize("name", CACHES)


def stored(cache: Cache, whole: bool) -> list[Tensor]:
    """All buffers, or what is held of each slot, as where it lies may be another place."""
    if whole:
        return [x for layer in cache.layers for x in layer.buffers]
    return [
        layer.taken(x, slot, layout.entries_from(slot, 0, length))
        for layer, layout in zip(cache.layers, cache.layouts, strict=True)
        for x in layer.buffers
        for slot, length in enumerate(cache.lengths)
    ]


def alike(a: Cache, b: Cache) -> bool:
    """Whether two caches hold the same, bit for bit."""
    kept = [(x.name, x.codec, x.shapes, x.lengths) for x in (a, b)]
    traits = [[layout.traits for layout in x.layouts] for x in (a, b)]
    held = [[h for i in range(x.num_layers) for h in x.held(i)] for x in (a, b)]
    whole = not a.pools and not b.pools
    buffers = [stored(x, whole) for x in (a, b)]
    pairs = [*zip(*held, strict=True), *zip(*buffers, strict=False)]
    return (
        kept[0] == kept[1]
        and traits[0] == traits[1]
        and len(buffers[0]) == len(buffers[1])
        and all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)
    )


def refused_or_alike(place: Path, content: bytes, cache: Cache) -> bool:
    """Load it; whether it was refused. Raises unless what is loaded is what was saved."""
    place.write_bytes(content)
    try:
        found = load_cache(place, cache.shapes)
    except CacheError as error:
        assert str(place) in str(error)  # noqa: PT017  # either outcome is right
        return True
    assert alike(found, cache)
    return False


@every_cache
@settings(FIXTURES, max_examples=examples(3, 12))
@given(data=st.data())
def test_bits_that_changed_anywhere(name: str, tmp_path: Path, data: st.DataObject) -> None:
    cache = CACHES[name]()
    cache.save(tmp_path / "file")
    content = bytearray((tmp_path / "file").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    bits = st.one_of(
        st.integers(0, 8 * header - 1),  # lengths, names, the description and checksums
        st.integers(8 * header, 8 * len(content) - 1),
    )
    flips = data.draw(st.lists(bits, min_size=1, max_size=3, unique=True))
    for bit in flips:
        content[bit // 8] ^= 1 << bit % 8
    refused = refused_or_alike(tmp_path / "file", bytes(content), cache)
    assert refused or all(bit < 8 * header for bit in flips), "a number that changed was not seen"


@every_cache
@settings(FIXTURES, max_examples=examples(2, 6))
@given(data=st.data())
def test_files_that_end_early_or_late(name: str, tmp_path: Path, data: st.DataObject) -> None:
    cache = CACHES[name]()
    cache.save(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    assert refused_or_alike(tmp_path / "file", cut, cache)
    longer = content + data.draw(st.binary(min_size=1, max_size=9))
    assert refused_or_alike(tmp_path / "file", longer, cache)


@pytest.mark.parametrize("index", range(len(KINDS)), ids=NAMES)
def test_numbers_of_another_cache_behind_its_description(index: int, tmp_path: Path) -> None:
    """Two caches of one kind and length: each file's header with the other's numbers."""
    kind = KINDS[index]
    caches = [filled(kind)[0] for _ in range(2)]
    for cache, seed in zip(caches, (5, 6), strict=True):
        rows = random_rows(kind, 2, torch.Generator().manual_seed(seed))
        with cache.step(batch_of([1, 1], [0, 1])) as stores:
            for store, (k, v) in zip(storing(stores), rows, strict=True):
                store.append(k, v)
        cache.save(tmp_path / str(seed))
    contents = [(tmp_path / name).read_bytes() for name in ("5", "6")]
    ends = [8 + int.from_bytes(content[:8], "little") for content in contents]
    assert len(contents[0][ends[0] :]) == len(contents[1][ends[1] :])
    for i, j in ((0, 1), (1, 0)):
        spliced = contents[i][: ends[i]] + contents[j][ends[j] :]
        assert refused_or_alike(tmp_path / "spliced", spliced, caches[i])


def test_files_of_other_models_and_codecs(tmp_path: Path) -> None:
    """A file is what it was saved as, or another model's and refused; nothing in between."""
    caches = {name: make() for name, make in CACHES.items()}
    for name, cache in caches.items():
        cache.save(tmp_path / name)
    num_refused = 0
    for one, other in combinations(caches, 2):
        if caches[one].shapes == caches[other].shapes:
            assert alike(load_cache(tmp_path / one, caches[other].shapes), caches[one])
        else:
            num_refused += 1
            with pytest.raises(CacheError, match="load it for the model that it was saved with"):
                load_cache(tmp_path / one, caches[other].shapes)
    assert num_refused
    same = {cache.shapes for cache in caches.values()}
    assert len(same) > 2


@every_cache
def test_files_of_other_versions(name: str, tmp_path: Path) -> None:
    cache = CACHES[name]()
    cache.save(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    now = b'"kept_cache":"%s"' % VERSION.encode()
    assert content.count(now) == 1
    for version in (b'"1"', b'"9"', b'" "'):
        place = tmp_path / "other"
        place.write_bytes(content.replace(now, b'"kept_cache":' + version))
        with pytest.raises(CacheError, match=f"kept reads version {VERSION}; make the cache anew"):
            load_cache(place, cache.shapes)


def test_what_is_alike() -> None:
    """So the laws can fail."""
    kind = KINDS[0]
    first, second = (filled(kind)[0] for _ in range(2))
    assert alike(first, second)
    k = torch.randn(2, 1, 1, 3, generator=generator())
    first.layers[0].keys[0][0, :, 3] = k[0, :, 0]
    assert not alike(first, second)
    second.truncate([10, 9])
    assert not alike(filled(kind)[0], second)
