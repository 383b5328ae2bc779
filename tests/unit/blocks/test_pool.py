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


def test_pools_that_share_a_budget() -> None:
    budget = Budget(100)
    small, large = BlockPool(10, 10, budget), BlockPool(3, 30, budget)
    held = small.take(4)
    assert (budget.num_used, budget.num_free, small.num_free, large.num_free) == (40, 60, 6, 2)
    others = large.take(2)
    with pytest.raises(CacheFullError, match=r"1 more blocks.* 0 of 10"):
        small.take(1)
    del held[0]
    small.take(1)
    del others, held
    assert budget.num_free == 100
    assert (small.num_resident, large.num_resident) == (4, 2)
    with small.idle():
        pass
    assert small.num_resident == 0
    few = small.take(3)
    assert small.num_resident == len(few)
    del large, few
    assert budget.num_used == 0
