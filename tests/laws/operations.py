"""Every operation on a cache of the grid, held against the lists of tokens.

Each function is an operation and carries it out with whatever it may do wrong in view. It returns
what its cache said where the operation has a limit, which must leave the cache as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kept.cache import Cache, load_cache
from kept.errors import CacheError
from laws.grid import Case, Combination
from laws.kinds import STATIC_LENGTH
from laws.steps import addresses
from laws.storages import storage_bytes

Operation = Callable[[Combination, Path], str | None]


def append(of: Combination, _: Path) -> str | None:
    """In chunks and one by one, evenly and not."""
    case = Case.begun(of, (4, 7))
    case.check()
    for counts in ([1, 1], [0, 1], [3, 2]):
        case.feed(counts)
        case.check()
    match of.layout.kind:
        case "static":
            return refused(case, lambda: case.step([STATIC_LENGTH, 1]))
        case "evicting":
            return refused(case, lambda: case.step([1, 5]))
    return None


def truncate(of: Combination, _: Path) -> str | None:
    """A slot back by some tokens, the other not; then both to nothing."""
    case = Case.begun(of)
    case.cache.truncate([8, 9])
    case.held[0] = case.held[0][:8]
    case.check()
    case.feed([2, 1])
    case.check()
    limit = None
    if of.layout.kind == "sliding":
        case.feed([190, 2])
        limit = refused(case, lambda: case.cache.truncate(100))
    elif of.layout.kind == "evicting":
        limit = refused(case, lambda: case.cache.truncate(4))
    else:
        case.cache.truncate(2)
        case.held = [tokens[:2] for tokens in case.held]
        case.check()
    case.cache.truncate_slot(1, 0)
    case.held[1] = []
    case.check()
    case.cache.truncate(0)
    case.held = [[], []]
    case.feed([9, 4])
    case.check()
    return limit


def fork(of: Combination, _: Path) -> None:
    """Either side goes on, and the other does not notice."""
    case = Case.begun(of)
    twin = Case(of, case.cache.fork(), case.held)
    twin.feed([1, 3])
    for each in (case, twin):
        each.check()
    case.feed([4, 1])
    for each in (case, twin):
        each.check()


def reorder(of: Combination, _: Path) -> None:
    """Two slots change places, and one takes the other's."""
    case = Case.begun(of)
    for order in ([1, 0], [1, 1], [0, 1]):
        moved(case, order, lambda order=order: case.cache.reorder(order))


def select(of: Combination, _: Path) -> None:
    """More slots, fewer, and others."""
    case = Case.begun(of)
    for order in ([1, 0, 1], [2], [0, 0]):
        moved(case, order, lambda order=order: case.cache.select(order))


def repeat(of: Combination, _: Path) -> None:
    """Each slot beside itself."""
    case = Case.begun(of)
    moved(case, [0, 0, 1, 1], lambda: case.cache.repeat(2))


def concatenate(of: Combination, _: Path) -> None:
    """Slots computed by themselves, of other lengths, and one that has no token."""
    cases = [Case.begun(of), Case.begun(of, (2,)), Case.begun(of, (0,))]
    held = [tokens for case in cases for tokens in case.held]
    joined = Case(of, cases[0].cache.concatenate([case.cache for case in cases[1:]]), held)
    joined.check()
    joined.feed([1, 2, 5, 3])
    for each in (joined, *cases):
        each.check()


def reset(of: Combination, _: Path) -> None:
    """Nothing is left, and what comes then is as in a new one."""
    case = Case.begun(of)
    before = addresses(case.cache)
    case.cache.reset()
    case.held = [[], []]
    assert addresses(case.cache) == before
    case.check()
    case.feed([6, 2])
    case.check()


def save(of: Combination, folder: Path) -> None:
    """The cache goes on, and what its file holds is the same whenever it holds the same."""
    case = Case.begun(of)
    twin = case.cache.fork()
    case.cache.save(folder / "one")
    case.check()
    case.feed([1, 2])
    case.check()
    twin.save(folder / "other")
    one, other = (load_file(folder / name) for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def load(of: Combination, folder: Path) -> None:
    """Into the place where such a cache lies, and on from there."""
    case = Case.begun(of)
    case.cache.save(folder / "file")
    place = of.put()
    cache = load_cache(folder / "file", of.layout.shapes, place=place)
    assert place is None or cache.place is place
    loaded = Case(of, cache, case.held)
    loaded.check()
    loaded.feed([5, 1])
    loaded.check()


def num_bytes(of: Combination, folder: Path) -> None:
    """To the byte what the allocator has given, after all that makes buffers anew."""
    case = Case.begun(of)
    cache = case.cache
    counted(cache)
    cache.select([1, 0, 1])
    counted(cache)
    counted(cache.concatenate([cache]))
    cache.save(folder / "file")
    counted(load_cache(folder / "file", of.layout.shapes, place=of.put()))
    cache.reset()
    counted(cache)


def share_prefixes(of: Combination, _: Path) -> None:
    """Three go on from one prefix, which is in memory once until they do; one from a part of it."""
    case = Case.begun(of, (9,))
    twins = [Case(of, case.cache.fork(), case.held) for _ in range(3)]
    assert all(addresses(twin.cache) == addresses(case.cache) for twin in twins)
    twins[2].cache.truncate(8)
    twins[2].held = [case.held[0][:8]]
    for number, twin in enumerate(twins, start=1):
        twin.feed([number])
    for each in (case, *twins):
        each.check()


OPERATIONS: dict[str, Operation] = {
    "append": append,
    "truncate": truncate,
    "fork": fork,
    "reorder": reorder,
    "select": select,
    "repeat": repeat,
    "concatenate": concatenate,
    "reset": reset,
    "save": save,
    "load": load,
    "num_bytes": num_bytes,
    "share prefixes": share_prefixes,
}


def refused(case: Case, act: Callable[[], object]) -> str:
    """The reason a cache gives for what it refuses; it is as it was."""
    before = addresses(case.cache)
    with pytest.raises(CacheError) as found:
        act()
    assert addresses(case.cache) == before
    case.check()
    return str(found.value)


def moved(case: Case, order: list[int], act: Callable[[], object]) -> None:
    """Slots after a move, and after they have gone on."""
    act()
    case.held = [list(case.held[i]) for i in order]
    case.check()
    case.feed([1 + slot % 2 for slot in range(len(order))])
    case.check()


def counted(cache: Cache) -> None:
    """A cache counts its bytes as they are."""
    assert cache.num_bytes == storage_bytes(cache)
