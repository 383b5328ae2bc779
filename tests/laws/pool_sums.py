"""The blocks of an engine's pools, counted one by one: each is free, held, or findable."""

from __future__ import annotations

from collections.abc import Iterable

from kept.blocks import Block, Stack
from kept.blocks.node import Node
from kept.blocks.tally import walk
from kept.engine import Engine
from kept.engine.pooled import PooledResidents


def check_pool(engine: Engine) -> None:
    """Between two steps a block is in use exactly where a running sequence or the tree has it, or
    something is read into it.

    A lease may keep one that was forgotten. What the engine says of its blocks adds up to this.
    """
    assert engine.cache is not None
    residents = engine._residents
    assert isinstance(residents, PooledResidents)
    running = {c.slot for r in engine.scheduler.running for c in r.live}
    nodes, leased, on_shelf = list[Node[Stack]](), list[Stack](), set[int]()
    stored, landing = residents._stored, list[Stack]()
    if stored is not None:
        landing = [stack for x in stored._reading.values() for stack in x.landing.stacks]
    if residents._known is not None:
        tree, shelf = residents._known.tree, residents._known.shelf
        tree.check()
        nodes = list(walk(tree._forest.roots.values()))
        claims = [hold.claim for hold in tree._forest._holds.values()]
        leased = [stack for claim in claims if claim for stack in stacks_to(claim[0])]
        there = [ticket() for order in (shelf._spare, shelf._wanted) for ticket in order]
        on_shelf = {id(x) for x in there}
        windowed = [x.block for x in nodes if any(id is not None for id in shelf._ids(x.block))]
        assert set(map(id, windowed)) <= on_shelf
    used_bytes, findable_bytes, reserved_bytes = 0, 0, 0
    for group, layout in enumerate(engine.cache._in_blocks()):
        pool = layout.memory.pool
        used = {number for number, ticket in pool._tickets.items() if ticket() is not None}
        assert len(used) == pool.num_used
        tables = list(enumerate(layout.tables))
        assert all(not table.blocks for slot, table in tables if slot not in running)
        held = ids(block for _, table in tables for block in table.blocks)
        findable = ids(node.block.blocks[group] for node in nodes)
        coming = ids(stack.blocks[group] for stack in landing)
        assert not coming & (held | findable)
        assert used == held | findable | coming | ids(x.blocks[group] for x in leased if x.blocks)
        if layout.window is None:
            free_to_go = [x.block.blocks[group] for x in nodes if not x.holds]
            kept = ids(x.block.blocks[group] for x in nodes if x.holds)
            assert len(ids(free_to_go)) == len(free_to_go)
            findable_bytes += len(ids(free_to_go) - kept) * pool.block_bytes
        else:
            findable_bytes += len(used - held - coming) * pool.block_bytes
        assert pool.num_reserved == max(len(used), pool.num_promised) + pool.num_idle
        used_bytes += len(used) * pool.block_bytes
        reserved_bytes += pool.num_reserved * pool.block_bytes
    blocks, each = engine.snapshot().blocks, engine.cache.block_bytes
    budget, supply = engine.cache.pools[0].budget, residents._supply
    assert all(pool.budget is budget for pool in engine.cache.pools)
    assert used_bytes <= reserved_bytes <= budget.taken <= (budget.limit or 0)
    if budget is not engine.room.budget:
        assert budget.taken == reserved_bytes
    assert blocks is not None
    assert min(blocks.free, blocks.findable, blocks.held) >= 0
    free = min(supply.most, (budget.limit or 0) - budget.taken + reserved_bytes) - used_bytes
    assert blocks.free == free // each
    assert blocks.findable == findable_bytes // each
    assert blocks.findable + blocks.held == -(-used_bytes // each)


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
    if engine._drafting.by_model is not None:
        keys = engine._drafting.by_model.keys
        assert not any(keys.cache.lengths)
        assert not keys.returnable
