"""A cache from a file is the cache that was saved, and goes on with the very same bits."""

from pathlib import Path

import pytest
import torch
from thinning import FULL
from torch import Tensor

from kept.cache import Cache, load_cache
from kept.errors import CacheError
from kept.ops import attend
from laws.kinds import KINDS, NAMES, Kind
from laws.plain import PlainCache
from laws.steps import batch_of, check_content, filled, generator, random_rows, step, storing

every_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


def again(kind: Kind, cache: Cache, folder: Path) -> Cache:
    cache.save(folder / "cache")
    return load_cache(folder / "cache", kind.all_shapes, in_blocks=kind.in_blocks)


def going_on(kind: Kind, cache: Cache) -> list[Tensor]:
    """What the next steps attend, and what comes of it."""
    source, found = generator(), []
    for counts, slots in (([1, 1], [0, 1]), ([3], [1]), ([1], [0])):
        rows = random_rows(kind, sum(counts), source)
        with cache.step(batch_of(counts, slots)) as stores:
            for layer, (store, (k, v)) in enumerate(zip(storing(stores), rows, strict=True)):
                view = store.append(k, v)
                found += [*view.stored(), *view.dense(), attend(k, view, kind.spec(layer))]
    return found


@every_kind
def test_it_goes_on_with_the_same_bits(kind: Kind, tmp_path: Path) -> None:
    cache, plain = filled(kind)
    loaded = again(kind, cache, tmp_path)
    check_content(loaded, plain)
    assert (loaded.name, loaded.codec, loaded.shapes) == (cache.name, cache.codec, cache.shapes)
    assert loaded.num_bytes == cache.num_bytes
    for found, expected in zip(going_on(kind, loaded), going_on(kind, cache), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@every_kind
def test_every_length_of_every_slot(kind: Kind, tmp_path: Path) -> None:
    empty = again(kind, kind.make(3), tmp_path)
    assert empty.lengths == (0, 0, 0)
    plain = PlainCache.empty(kind, 3)
    step(empty, plain, [2], [1], generator())
    once = again(kind, empty, tmp_path)
    check_content(once, plain)
    step(once, plain, [17, 1], [2, 1], generator())
    twice = again(kind, once, tmp_path)
    check_content(twice, plain)
    step(twice, plain, [1, 1, 1], [0, 1, 2], generator())


@every_kind
def test_a_window_goes_back_as_far_as_before(kind: Kind, tmp_path: Path) -> None:
    cache, told = filled(kind)
    cache.save(tmp_path / "cache")
    for drop in range(1, 9, 1 if FULL else 3):
        loaded = load_cache(tmp_path / "cache", kind.all_shapes, in_blocks=kind.in_blocks)
        plain = told.copy()
        lengths = [n - drop for n in cache.lengths]
        if all(plain.can_truncate(slot, n) for slot, n in enumerate(lengths)):
            loaded.truncate(lengths)
            plain.truncate(lengths)
            check_content(loaded, plain)
            step(loaded, plain, [1, 2], [0, 1], generator())
        else:
            with pytest.raises(CacheError, match="cannot go back"):
                loaded.truncate(lengths)


@every_kind
def test_a_step_in_progress_is_not_saved(kind: Kind, tmp_path: Path) -> None:
    cache, plain = filled(kind)
    k, v = (
        x.view(2, 3, *x.shape[1:]).transpose(1, 2) for x in random_rows(kind, 6, generator())[0]
    )
    cache.update(k, v, 0)
    loaded = again(kind, cache, tmp_path)
    check_content(loaded, plain)
    step(loaded, plain, [2, 2], [0, 1], generator())


@every_kind
def test_a_file_holds_what_is_held_and_no_spare_room(kind: Kind, tmp_path: Path) -> None:
    cache, plain = filled(kind)
    cache.truncate([11, 9])
    cache.save(tmp_path / "cache")
    held = plain.input_bytes()
    for layer in range(len(kind.shapes)):
        held += sum(cache.lengths) * kind.token_bytes(layer)
    assert (tmp_path / "cache").stat().st_size <= held + (8000 if kind.cross else 6000)
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
