"""The blocks of an engine's pool, counted one by one: each is free, held, or findable."""

from __future__ import annotations

from kept.blocks.node import Node
from kept.blocks.tally import walk
from kept.engine import Engine
from kept.engine.pooled import PooledResidents


def check_pool(engine: Engine) -> None:
    """Between two steps a block is in use exactly where a running sequence or the tree has it.

    A lease may keep one that was forgotten. What the engine says of its blocks adds up to this.
    """
    assert engine.cache is not None
    pool = engine.cache.pool
    assert pool is not None
    residents = engine._residents
    assert isinstance(residents, PooledResidents)
    used = {number for number, ticket in pool._tickets.items() if ticket() is not None}
    assert len(used) == pool.num_used
    tables = engine.cache._in_blocks().tables
    running = {c.slot for r in engine.scheduler.running for c in r.live}
    assert all(not table.blocks for slot, table in enumerate(tables) if slot not in running)
    held = {block.id for table in tables for block in table.blocks}
    leased, findable, free_to_go, kept = set[int](), set[int](), list[int](), set[int]()
    if residents._tree is not None:
        residents._tree.check()
        forest = residents._tree._forest
        nodes = list(walk(forest.roots.values()))
        findable = {node.block.id for node in nodes}
        free_to_go = [node.block.id for node in nodes if not node.holds]
        kept = {node.block.id for node in nodes if node.holds}
        assert len(set(free_to_go)) == len(free_to_go)
        claims = [hold.claim for hold in forest._holds.values()]
        leased = {id for claim in claims if claim for id in blocks_to(claim[0])}
    assert used == held | findable | leased
    blocks = engine.snapshot().blocks
    assert blocks is not None
    assert min(blocks.free, blocks.findable, blocks.held) >= 0
    assert blocks.free == pool.num_blocks - len(used)
    assert blocks.findable == len(set(free_to_go) - kept)
    assert blocks.findable + blocks.held == len(used)


def blocks_to(node: Node[object]) -> set[int]:
    """The numbers of a node's block and of those before it."""
    found, at = set[int](), node
    while at.parent is not None:
        found.add(at.block.id)
        at = at.parent
    return found


def check_nothing_is_left(engine: Engine) -> None:
    """Once everything has ended, what is forgotten is gone."""
    engine.forget()
    assert engine.cache is not None
    assert engine.cache.pool is not None
    assert engine.cache.pool.num_used == 0
    assert not any(engine.cache.lengths)
