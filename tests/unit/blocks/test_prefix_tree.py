"""What a prefix tree says, refuses and costs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from itertools import chain, count, repeat
from unittest.mock import patch

import numpy as np
import pytest

from kept.blocks import BOUNDS, BlockPool, Miss, Namespace, PrefixTree, Reason
from kept.blocks import forest as forest_module
from kept.blocks import node as node_module
from kept.errors import OptionError


def tree_of(size: int = 4, **options: object) -> PrefixTree[int]:
    return PrefixTree(Namespace("m", "i", "k", "c", (None,), size), **options)  # type: ignore[arg-type]


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def said(tree: PrefixTree[int], tokens: list[int], salt: str = "") -> str:
    with tree.match(tokens, salt) as found:
        return str(found.miss)


def test_it_says_why_it_did_not_find_more() -> None:
    tree = tree_of(min_tokens=2)
    tree.insert([1, 2, 3, 4, 5, 6], [0, 1], "a")
    assert said(tree, [1, 2, 3, 4, 5, 6], "a") == "found whole"
    assert said(tree, [1, 2, 3, 4, 5, 6, 7], "a") == "known up to token 6"
    assert said(tree, [1, 2, 3, 4, 5, 7, 7], "a") == "diverged at token 5"
    assert said(tree, [1, 3], "a") == "diverged at token 1"
    assert said(tree, [2, 2], "a") == "nothing known begins like it"
    assert said(tree, [1], "a") == "too short to be shared"
    assert said(tree, [1, 2, 3, 4, 5], "b") == "known under another salt from token 0 on"
    assert tree.match([1, 2, 9], "a").miss == Miss(Reason.DIVERGED, 2, 3, 9)
    tree.evict(1)
    assert said(tree, [1, 2, 3, 4, 5, 6, 7], "a") == "evicted from token 4 on"
    assert tree.match([1, 3], "a").num_tokens == 0
    assert {reason.value for reason in Reason} == {reason.value.lower() for reason in Reason}


def test_it_remembers_as_many_evicted_blocks_as_it_was_told() -> None:
    tree = tree_of(size=1, remembered=3)
    for token in range(5):
        tree.insert([token], [token])
    assert tree.evict(9) == 5
    reasons = [tree.match([token]).miss.reason for token in range(5)]
    assert reasons == [Reason.UNKNOWN] * 2 + [Reason.EVICTED] * 3
    assert tree_of(size=1, remembered=0).evict(1) == 0


def order_of(tree: PrefixTree[int]) -> list[tuple[int, ...]]:
    """All tokens of the blocks as they go, one by one; each is of one token."""
    gone = []
    while entries := tree.entries():
        assert tree.evict(1) == 1
        texts: dict[str, tuple[int, ...]] = {}
        for entry in entries:
            texts[entry.key] = texts.get(entry.after, ()) + entry.tokens
        left = {entry.key for entry in tree.entries()}
        gone += [text for key, text in texts.items() if key not in left]
    return gone


def ticking(**options: object) -> PrefixTree[int]:
    return tree_of(1, clock=partial(next, count()), **options)


def test_what_is_used_goes_later_and_so_does_what_it_follows() -> None:
    tree = ticking()
    for text in ([1, 2], [3], [4]):
        tree.insert(text, text).release()
    tree.match([1, 2]).lease.release()
    assert order_of(tree) == [(3,), (4,), (1, 2), (1,)]
    for text in ([1, 2], [1, 5], [3], [4]):
        tree.insert(text, text).release()
    tree.match([3]).lease.release()
    assert order_of(tree) == [(1, 2), (1, 5), (1,), (4,), (3,)]


def test_what_was_used_below_counts_above() -> None:
    tree = ticking()
    for text in ([1, 2], [3]):
        tree.insert(text, text).release()
    found = tree.match([1, 2])
    assert tree.evict(1) == 1
    found.lease.release()
    tree.insert([3], [3]).release()
    tree.evict(1)
    assert {entry.tokens for entry in tree.entries()} == {(1,), (3,)}
    tree.insert([4, 5], [4, 5], retain=100.0).release()
    assert tree.evict(3) == 3
    tree.insert([6], [6]).release()
    assert order_of(tree) == [(6,), (4,)]


def test_a_fuller_block_is_retained_as_what_it_stands_for() -> None:
    tree = tree_of(4, clock=partial(next, count()))
    tree.insert([1], [1], retain=1000.0).release()
    tree.insert([1, 2], [1]).release()
    tree.insert([3], [3]).release()
    tree.evict(1)
    assert [entry.tokens for entry in tree.entries()] == [(1, 2)]


def test_a_wish_to_retain_ends() -> None:
    now = 0.0
    tree = tree_of(clock=lambda: now)
    tree.insert([1], [1], retain=100.0).release()
    order = []
    for now in (10.0, 90.0, 150.0):
        tree.insert([int(now)], [2]).release()
        assert tree.evict(1) == 1
        order.append([entry.tokens for entry in tree.entries()])
    assert order == [[(1,)], [(1,)], [(150,)]]


def test_a_clock_that_runs_backwards_changes_no_order() -> None:
    times = chain([5.0] * 3, repeat(1.0))
    tree = tree_of(clock=lambda: next(times))
    tree.insert([1], [1]).release()
    tree.insert([2], [2]).release()
    tree.evict(1)
    assert [entry.tokens for entry in tree.entries()] == [(2,)]


@pytest.mark.usefixtures("_no_collector")
def test_blocks_go_back_to_their_pool_at_once() -> None:
    pool = BlockPool(40)
    tree = PrefixTree(Namespace("m", "i", "k", "c", (None,), 2))
    lease = tree.insert(range(9), pool.take(5))
    tree.insert(range(9), pool.take(5), lease=lease)  # none of which is taken
    assert pool.num_used == 5
    tree.insert(range(10), pool.take(5), lease=lease)  # one instead of the last, which was not full
    assert pool.num_used == 5
    other = tree.insert([0, 1, 7], pool.take(2))
    assert pool.num_used == 6
    other.release()
    tree.evict(1)
    assert pool.num_used == 5
    tree.clear()
    assert (tree.num_blocks, pool.num_used) == (0, 5)
    tree.insert(range(12), pool.take(6), lease=lease)  # of a text that was cleared
    assert (tree.num_blocks, pool.num_used) == (0, 5)
    lease.release()
    assert pool.num_used == 0


def test_blocks_of_the_same_memory_count_once() -> None:
    """As the beginning of a text and what goes on in its last block do, where they are objects of
    their own."""
    tree: PrefixTree[int] = PrefixTree(
        Namespace("m", "i", "k", "c", (None,), 2), memory=lambda block: block % 10
    )
    lease = tree.insert([1, 2, 3], [0, 1])
    tree.insert([1, 2, 3, 4], [10, 11]).release()
    assert (tree.num_blocks, tree.num_evictable, tree.evictable()) == (3, 0, [])
    tree.check()
    lease.release()
    assert (tree.num_blocks, tree.num_evictable, sorted(tree.evictable())) == (2, 2, [0, 11])
    tree.check()


def test_what_is_no_call_is_refused_and_changes_nothing() -> None:
    tree = tree_of()
    lease = tree.insert([1, 2, 3, 4, 5], [0, 1], "a")
    released = tree.match([1])
    released.lease.release()
    before = tree.entries()
    for tokens, blocks, options, why in (
        ([1, 2, 3, 4, 5], [0], {}, "2 blocks, not 1"),
        ([1, 2, 3, 4], [0, 1], {}, "1 blocks, not 2"),
        ([1.5], [0], {}, "no list of token ids"),
        ([1], [0], {"retain": -1.0}, "retain=-1.0"),
        ([1], [0], {"retain": float("nan")}, "retain=nan"),
        ([1], [0], {"retain": 3601.0}, "3600.0 seconds"),
        ([1], [0], {"lease": released.lease}, "released"),
        ([1], [0], {"lease": tree_of().match([1]).lease}, "another tree"),
        ([1, 2, 3, 4, 5], [0, 1], {"lease": lease}, "another salt"),
        ([1, 2, 3, 9, 5], [0, 1], {"lease": lease, "salt": "a"}, "other tokens before token 4"),
        ([1, 2, 3], [0], {"lease": lease, "salt": "a"}, "other tokens before token 4"),
    ):
        with pytest.raises(OptionError, match=why):
            tree.insert(tokens, blocks, **options)  # type: ignore[arg-type]
        assert tree.entries() == before
        tree.check()
    for options in ({"min_tokens": 0}, {"remembered": -1}, {"longest_retain": float("nan")}):
        with pytest.raises(OptionError, match="give at least"):
            tree_of(**options)


def test_a_match_of_part_of_a_block_goes_on_with_a_block_of_its_own() -> None:
    tree = tree_of()
    tree.insert([1, 2, 3, 4, 5, 6, 7, 8], [0, 1]).release()
    found = tree.match([1, 2, 3, 4, 5, 6, 9])
    assert (found.blocks, found.num_tokens) == ((0, 1), 6)
    assert tree.num_evictable == 0
    tree.insert([1, 2, 3, 4, 5, 6, 9], [0, 2], lease=found.lease)
    assert tree.num_evictable == 1  # the block that was copied from
    tree.evict(9)
    assert tree.match([1, 2, 3, 4, 5, 6, 9]).blocks == (0, 2)


def test_a_block_with_a_leased_beginning_cannot_go() -> None:
    """A text that went on in the block where a leased prompt ends: dropping it frees nothing."""
    tree = tree_of()
    prompt = tree.insert([1, 2, 3, 4, 5], ["a", "b"])
    tree.insert([1, 2, 3, 4, 5, 6, 7], ["a", "b"]).release()
    other = tree.insert([1, 2, 3, 4, 9], ["a", "c"])
    assert (tree.num_blocks, tree.num_evictable) == (4, 0)
    other.release()
    assert tree.num_evictable == 1
    tree.check()
    prompt.release()
    assert (tree.num_blocks, tree.num_evictable) == (3, 3)
    tree.check()


def test_many_that_begin_alike_are_not_looked_through() -> None:
    size, count = 8, 10_000
    tree = tree_of(size)
    rows = np.zeros((count, size), np.int64)
    rows[:, -2] = np.arange(count) * 2
    leases = [tree.insert(row, [index]) for index, row in enumerate(rows)]
    common = patch.object(node_module, "num_common", wraps=node_module.num_common)
    in_order = patch.object(node_module, "sorted", wraps=sorted, create=True)
    with common as compared, in_order as made:
        for index in range(0, count, 500):
            asked = [*[0] * (size - 2), 2 * index, 1]
            found = tree.match(asked)
            assert (found.blocks, found.num_tokens) == ((index,), size - 1)
            assert tree.match([*[0] * (size - 2), 2 * index + 1]).miss.token == size - 2
            leases.append(tree.insert(asked, [count + index], lease=found.lease))
    assert compared.call_count <= 2 * 2 * count / 500
    assert made.call_count == 1
    assert tree.num_evictable == 0
    del leases, found
    assert tree.evict(2 * count) == count + len(range(0, count, 500))


def test_a_long_text_costs_each_block_once() -> None:
    size, count = 64, 100_000 // 64
    tokens = np.arange(size * count)
    tree, lease = tree_of(size), None
    read = 0

    class Counted(list[int]):
        def __getitem__(self, at: object) -> object:
            nonlocal read
            found = super().__getitem__(at)  # type: ignore[index]
            read += len(found) if isinstance(at, slice) else 1
            return found

    text = Counted()
    hashed = patch.object(forest_module, "next_key", wraps=forest_module.next_key)
    with hashed as hashes:
        for end in range(size, len(tokens) + 1, size):
            text.extend(tokens[end - size : end].tolist())
            lease = tree.insert(text, range(end // size), lease=lease)
    assert hashes.call_count == count
    assert read <= 2 * len(tokens)  # each block, and the one before it to compare
    assert tree.match(tokens).blocks == tuple(range(count))


def test_a_chain_of_many_blocks_comes_and_goes() -> None:
    count = 10_000
    tree = tree_of(1)
    lease = tree.insert(range(count), range(count))
    assert (tree.num_blocks, tree.num_evictable) == (count, 0)
    tree.clear()
    del lease  # the last of them lets the one before it go, and so on
    lease = tree.insert(range(count), range(count))
    lease.release()
    assert tree.evict(count - 1) == count - 1
    assert [entry.tokens for entry in tree.entries()] == [(0,)]


def test_queues_do_not_grow_with_what_is_gone() -> None:
    tree = tree_of(64)
    for end in range(1, 500):
        tree.insert(range(end), range(-(-end // 64))).release()
    assert tree.num_blocks == 8
    assert len(tree._forest.tally.queue.entries) <= 2 * tree.num_blocks + 65


def test_salts_come_and_go() -> None:
    tree = tree_of()
    for number in range(100):
        tree.match([1, 2], str(number))
        tree.insert([1, 2], [number], str(number)).release()
        assert tree.match([1, 2], str(number)).blocks == (number,)
        tree.evict(1)
    assert not tree._forest.roots
    assert tree.match([]).blocks == tree.match([], "a").blocks == ()


def test_how_old_blocks_were_as_they_went() -> None:
    now = [0.0]
    tree = tree_of(clock=lambda: now[0])
    tree.insert([1, 2, 3], [0]).release()
    now[0] = 4.0
    tree.insert([1, 2, 3, 4], [1]).release()  # the same block, fuller
    now[0] = 10.0
    tree.match([1, 2, 3, 4]).lease.release()
    now[0] = 17.0
    assert tree.evict(9) == 1
    ages = tree.ages
    assert (ages.lifetimes.total, ages.idle.total) == (17.0, 7.0)
    assert ages.lifetimes.counts[BOUNDS.index(20.0)] == ages.idle.counts[BOUNDS.index(10.0)] == 1
    assert sum(ages.lifetimes.counts) == sum(ages.idle.counts) == 1
    ages.idle.add(1e9)
    assert ages.idle.counts[-1] == 1


def test_how_long_blocks_were_not_gone_on_from() -> None:
    now = [0.0]
    tree = tree_of(clock=lambda: now[0])

    def go_on(tokens: list[int], at: float) -> None:
        now[0] = at
        with tree.match(tokens) as found:
            tree.reuse(found.lease)

    tree.insert(range(10), [0, 1, 2]).release()
    tree.match(range(10)).lease.release()  # looked at, which is no use
    go_on([0, 1, 2, 3, 9], 1.0)  # the first time: after nothing
    assert sum(tree.ages.gaps.counts) == 0
    go_on(list(range(10)), 4.0)  # 3 s for one block, the first time for two
    go_on(list(range(8)), 9.0)  # 5 s for two
    assert (tree.ages.gaps.total, sum(tree.ages.gaps.counts)) == (13.0, 3)
    assert tree.ages.gaps.counts[BOUNDS.index(5.0)] == 3
    now[0] = 10.0
    tree.insert(range(11), [0, 1, 2]).release()  # the last block, fuller
    go_on(list(range(11)), 14.0)  # 5 s for two, 10 for the last
    assert (tree.ages.gaps.total, sum(tree.ages.gaps.counts)) == (33.0, 6)
    assert tree.ages.gaps.counts[BOUNDS.index(10.0)] == 1
    go_on([7, 7], 20.0)
    tree.check()
    held = tree.match(range(8))
    tree.clear()
    tree.reuse(held.lease)  # of what is no longer there
    assert sum(tree.ages.gaps.counts) == 6
