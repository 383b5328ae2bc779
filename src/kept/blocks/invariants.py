"""What is always true of a prefix tree between two calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from kept.blocks.keys import TOKEN_BYTES, next_key
from kept.blocks.node import Node, Root
from kept.blocks.tally import Tally, walk

B = TypeVar("B")


def check_tree(
    roots: Mapping[str, Root[B]], held: Sequence[Node[B]], tally: Tally[B], block: int
) -> None:
    """Raise AssertionError naming what is not so. held: the nodes of leases, one for each."""
    nodes = [node for root in roots.values() for node in walk([root])]
    for salt, root in roots.items():
        assert root.salt == salt, "a root is filed under another salt"
        assert root.children or root.holds, "a root of nothing"
    for node in nodes:
        check_place(node, block * TOKEN_BYTES)
    check_holds([*roots.values(), *nodes], held)
    check_tally(nodes, tally)


def check_place(node: Node[B], full: int) -> None:
    """A node's place, keys and children's order. full: bytes of a whole block's tokens."""
    parent = node.parent
    assert parent is not None, "a node without a parent that is no root"
    assert node.is_linked, "a node is filed under other tokens than its own"
    assert node.key == next_key(parent.key, node.tokens), "a key of other tokens"
    assert node.plain == next_key(parent.plain, node.tokens), "a key without salt of other tokens"
    assert node.depth == parent.depth + 1, "a node at another depth than its place"
    assert 0 < len(node.tokens) <= full, "a node of no tokens, or too many"
    if len(node.tokens) < full:
        assert not node.children, "something follows a block that is not full"
        assert node.holds or not parent.continuing(node.tokens), "a part of another block"
    assert hasattr(node, "block"), "a node without its block"
    for one in (node, parent):
        assert one.sorted in (None, sorted(one.children)), "children out of order"


def check_holds(nodes: Sequence[Node[B]], held: Sequence[Node[B]]) -> None:
    """Each node is held by its leases and its held children, no more and no less."""
    leases = Counter(map(id, held))
    assert leases.keys() <= {id(node) for node in nodes}, "a lease of a node that is not there"
    for node in nodes:
        below = sum(child.holds > 0 for child in node.children.values())
        assert node.holds == leases[id(node)] + below, "a count of leases that is wrong"


def check_tally(nodes: Sequence[Node[B]], tally: Tally[B]) -> None:
    """Counts are those of the nodes, and what may be evicted is queued once, at no higher rank."""
    assert tally.num_nodes == len(nodes), "a wrong number of nodes"
    assert tally.of == Counter(tally.memory(node.block) for node in nodes), "blocks miscounted"
    held = Counter(tally.memory(node.block) for node in nodes if node.holds)
    assert tally.held == held, "a wrong number of held ones"
    assert tally.plain == Counter(node.plain for node in nodes), "keys without salt miscounted"
    ranks = {id(node): rank for rank, _, node in tally.queue.entries}
    assert len(ranks) == len(tally.queue.entries), "a node is queued twice"
    for node in nodes:
        assert node.queued == (id(node) in ranks), "a node does not know whether it is queued"
        assert node.queued or not node.is_idle, "a node that may be evicted is not queued"
        assert ranks.get(id(node), 0.0) <= node.rank, "a node is queued at too high a rank"
