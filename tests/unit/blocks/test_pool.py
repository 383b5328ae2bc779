"""A block is free or held by somebody, whatever is taken, shared, let go or interrupted."""

import gc
import threading
from contextlib import suppress
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupting import interrupted

from kept.blocks import Block, BlockPool, Budget
from kept.errors import CacheFullError

MOST = 12


def return_memory(pool: BlockPool) -> None:
    """What a cache does with the memory of idle blocks, where there is none."""
    with pool.idle():
        """Nothing lies in these blocks."""


def check(pool: BlockPool, held: list[Block]) -> None:
    """What is held is held once, and everything else can be taken, lowest numbers first."""
    ids = {block.id for block in held}
    assert len(ids) == len(set(map(id, held))) == pool.num_used
    assert pool.num_free == pool.num_blocks - len(ids)
    others = sorted(set(range(pool.num_blocks)) - ids)
    with pool.idle() as runs:
        idle = [number for run in runs for number in run]
        assert idle == others[: len(idle)]
        assert all(a.stop < b.start for a, b in pairwise(runs))
    assert [block.id for block in pool.take(len(others))] == others


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, MOST + 1)),
        st.tuples(st.just("share"), st.integers(0, 100)),
        st.tuples(st.just("drop"), st.integers(0, 100)),
        st.tuples(st.just("circle"), st.integers(0, 100)),
        st.tuples(st.just("interrupt"), st.integers(1, 30)),
    ),
    max_size=30,
)


@given(steps)
def test_each_block_is_free_or_held(steps: list[tuple[str, int]]) -> None:
    pool, held = BlockPool(MOST), list[Block]()
    for what, number in steps:
        if what == "take":
            used = len(set(map(id, held)))
            if number > MOST - used:
                with pytest.raises(CacheFullError, match=f"{number} more.*{MOST - used} of {MOST}"):
                    pool.take(number)
            else:
                held += pool.take(number)
        elif what == "share" and held:
            held.append(held[number % len(held)])
        elif what == "drop" and held:
            held.pop(number % len(held))
        elif what == "circle" and held:  # which only the collector takes apart
            kept = [held.pop(number % len(held))]
            kept.append(kept)  # type: ignore[arg-type]
            del kept
            gc.collect(0)
        elif what == "interrupt":
            count = min(3, pool.num_free)
            with suppress(KeyboardInterrupt):
                interrupted(partial(pool.take, count), number, "blocks")
        assert len(set(map(id, held))) == pool.num_used
    check(pool, held)


EACH = 10  # bytes of a block
budgeted = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["take", "take", "promise"]), st.integers(0, MOST)),
        st.tuples(st.sampled_from(["drop", "drop", "other"]), st.integers(0, 100)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("interrupt"), st.integers(1, 60)),
    ),
    max_size=30,
)


@given(budgeted)
def test_pools_share_a_budget(steps: list[tuple[str, int]]) -> None:
    """Blocks that are held, promised or idle are reserved, and no others once all is settled."""
    budget = Budget(MOST * EACH)
    pools, held = [BlockPool(MOST, EACH), BlockPool(MOST, EACH)], list[tuple[int, Block]]()
    for pool in pools:
        pool.draw_on(budget)
    now = 0
    for what, number in steps:
        pool = pools[now]
        free = pool.num_free
        if what == "take" and number > free:
            before = budget.taken
            with pytest.raises(CacheFullError):
                pool.take(number)
            assert budget.taken == before
        elif what == "take":
            held += [(now, block) for block in pool.take(number)]
        elif what == "promise":
            with suppress(CacheFullError):
                pool.promise(number)
        elif what == "drop" and held:
            held.pop(number % len(held))
        elif what == "other":
            now = 1 - now
        elif what == "release":
            return_memory(pool)
            assert pool.num_idle == 0
        elif what == "interrupt":
            with suppress(KeyboardInterrupt):
                interrupted(partial(pool.take, min(3, free)), number, "blocks")
        needed = [max(each.num_used, each.num_promised) for each in pools]
        idle = [each.num_idle for each in pools]
        assert budget.taken == EACH * (sum(needed) + sum(idle)) <= budget.limit
    for number, pool in enumerate(pools):
        assert pool.num_used == sum(of == number for of, _ in held)
    held.clear()
    for pool in pools:
        pool.promise(0)
        return_memory(pool)
    assert budget.taken == 0
    assert [pool.num_free for pool in pools] == [MOST, MOST]


def test_a_pool_that_goes_gives_its_bytes_back() -> None:
    budget = Budget(30)
    pool = BlockPool(3, EACH, budget)
    pool.take(2)
    reserved = budget.reserve(5)
    with pytest.raises(CacheFullError, match=r"6 B more .* 5 B of 30 B are free; .*kv_memory"):
        reserved.change(11)
    assert budget.taken == 25, "blocks keep their memory, and who was refused what it had"
    del reserved
    assert budget.taken == 20
    del pool
    gc.collect()
    assert budget.taken == 0


def test_threads_share_no_block() -> None:
    pool, wrong = BlockPool(64), list[object]()

    def work() -> None:
        for count in [1, 5, 2, 8, 3] * 60:
            mine = pool.take(count)
            for block in mine:
                if seen.setdefault(block.id, block) is not block:
                    wrong.append(block)
            for block in mine:
                del seen[block.id]

    seen: dict[int, Block] = {}
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    check(pool, [])


def test_a_pool_may_go_before_its_blocks() -> None:
    pool = BlockPool(3)
    block = pool.take(2)[1]
    del pool
    gc.collect()
    assert repr(block) == "<Block 1>"


def test_pools_with_blocks_of_two_sizes() -> None:
    budget = Budget(100)
    small, large = BlockPool(10, 10, budget), BlockPool(3, 30, budget)
    held = small.take(4)
    assert (budget.taken, budget.free, small.num_free, large.num_free) == (40, 60, 6, 2)
    others = large.take(2)
    assert (small.num_free, large.num_free) == (0, 0)
    with pytest.raises(CacheFullError, match=r"10 B more .* 0 B of 100 B"):
        small.take(1)
    del held[0]
    assert (small.num_free, small.num_idle, small.num_reserved) == (1, 1, 4)
    held += small.take(1)
    others.pop()
    assert (budget.free, small.num_free, large.num_free) == (0, 0, 1), "memory is its pool's"
    return_memory(large)
    assert (budget.free, small.num_free, large.num_free) == (30, 3, 1)
    del large, others, held
    assert (budget.taken, small.num_free) == (40, 10)
