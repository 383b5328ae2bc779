"""The blocks of an engine's pools, counted one by one: each is free, held, or findable."""

from __future__ import annotations

from collections.abc import Iterable

from kept.blocks import Block, Stack
from kept.blocks.node import Node
from kept.blocks.tally import walk
from kept.engine import Engine
from kept.engine.pooled import PooledResidents


def check_pool(engine: Engine) -> None:
    """Between two steps a block is in use exactly where a running sequence or the tree has it.

    A lease may keep one that was forgotten. What the engine says of its blocks adds up to this.
    """
    assert engine.cache is not None
    residents = engine._residents
    assert isinstance(residents, PooledResidents)
    running = {c.slot for r in engine.scheduler.running for c in r.live}
    stacks, free_to_go, leased = list[Stack](), list[Stack](), list[Stack]()
    if residents._known is not None:
        tree, shelf = residents._known.tree, residents._known.shelf
        tree.check()
        nodes = list(walk(tree._forest.roots.values()))
        stacks = [node.block for node in nodes]
        free_to_go = [node.block for node in nodes if not node.holds]
        claims = [hold.claim for hold in tree._forest._holds.values()]
        leased = [stack for claim in claims if claim for stack in stacks_to(claim[0])]
        on_shelf = [ticket() for order in (shelf._spare, shelf._wanted) for ticket in order]
        assert {id(x) for x in stacks if any(shelf._ids(x))} <= {id(x) for x in on_shelf}
    used_bytes, findable_bytes = 0, 0
    for group, layout in enumerate(engine.cache._in_blocks()):
        pool = layout.memory.pool
        used = {number for number, ticket in pool._tickets.items() if ticket() is not None}
        assert len(used) == pool.num_used
        tables = list(enumerate(layout.tables))
        assert all(not table.blocks for slot, table in tables if slot not in running)
        held = ids(block for _, table in tables for block in table.blocks)
        findable = ids(stack.blocks[group] for stack in stacks)
        assert used == held | findable | ids(stack.blocks[group] for stack in leased)
        used_bytes += len(used) * pool.block_bytes
        if layout.window is None:
            ends = [block.id for stack in free_to_go if (block := stack.blocks[group]) is not None]
            assert len(set(ends)) == len(ends)
            findable_bytes += len(ends) * pool.block_bytes
        else:
            findable_bytes += len(used - held) * pool.block_bytes
    blocks, budget = engine.snapshot().blocks, engine.cache.pools[0].budget
    assert blocks is not None
    assert used_bytes == budget.num_used
    assert used_bytes <= budget.num_bytes
    assert min(blocks.free, blocks.findable, blocks.held) >= 0
    assert blocks.free == (budget.num_bytes - used_bytes) // engine.cache.block_bytes
    assert blocks.findable == findable_bytes // engine.cache.block_bytes
    total = budget.num_bytes // engine.cache.block_bytes
    assert blocks.free + blocks.findable + blocks.held == total


def ids(blocks: Iterable[Block | None]) -> set[int]:
    """The numbers of blocks, gaps aside."""
    return {block.id for block in blocks if block is not None}


def stacks_to(node: Node[Stack]) -> list[Stack]:
    """What lies in a node and in those before it."""
    found, at = [], node
    while at.parent is not None:
        found.append(at.block)
        at = at.parent
    return found


def check_nothing_is_left(engine: Engine) -> None:
    """Once everything has ended, what is forgotten is gone."""
    engine.forget()
    assert engine.cache is not None
    assert engine.cache.pools
    assert all(pool.num_used == 0 for pool in engine.cache.pools)
    assert not any(engine.cache.lengths)
