"""What follows from the blocks of a tree and the leases of them, kept as they change.

How many there are and are held, which may be evicted, which texts are known under any salt. All of
it can be counted anew, and is after an exception came between two changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from kept.blocks.eviction_queue import EvictionQueue
from kept.blocks.node import Node, Root

B = TypeVar("B")


def walk(roots: Iterable[Node[B]]) -> Iterator[Node[B]]:
    """Every node that stands below these, parents first; a node's children may go meanwhile."""
    waiting = [child for root in roots for child in root.children.values()]
    while waiting:
        node = waiting.pop()
        waiting += node.children.values()
        yield node


def _less(counts: Counter[Hashable], memory: Hashable) -> None:
    counts[memory] -= 1
    if not counts[memory]:
        del counts[memory]


def _itself(block: Hashable) -> Hashable:
    return block


class Tally(Generic[B]):
    """Counts of a tree's nodes. num_nodes: how many there are, without roots. of, held: by the
    memory of a block, how many nodes have it, and how many of these are held, by a lease of their
    own or of what follows: a text that goes on in a block has a node beside the one of its
    beginning. plain: how many have a key without salt. queue: those that may be evicted."""

    def __init__(self, memory: Callable[[B], Hashable] | None = None) -> None:
        """memory: see `PrefixTree`."""
        self.memory: Callable[[B], Hashable] = memory or _itself
        self.num_nodes = 0
        self.of: Counter[Hashable] = Counter()
        self.held: Counter[Hashable] = Counter()
        self.plain: dict[bytes, int] = {}
        self.queue: EvictionQueue[B] = EvictionQueue()

    @classmethod
    def count(
        cls,
        roots: Iterable[Root[B]],
        held: Iterable[Node[B]],
        memory: Callable[[B], Hashable] | None = None,
    ) -> Tally[B]:
        """Count everything anew. Changes `holds` and `queued` of the nodes, and nothing else."""
        roots, found = list(roots), cls(memory)
        for root in roots:
            root.holds = 0
        nodes = list(walk(roots))
        for node in nodes:
            node.holds, node.queued = 0, False
            found.note(node)
        for node in held:
            found.hold(node)
        found.queue = EvictionQueue(node for node in nodes if node.is_idle)
        return found

    @property
    def num_evictable(self) -> int:
        """How many blocks would be free if all went that nobody holds."""
        return len(self.of) - len(self.held)

    def note(self, node: Node[B]) -> None:
        """A node has been added."""
        self.num_nodes += 1
        self.of[self.memory(node.block)] += 1
        self.plain[node.plain] = self.plain.get(node.plain, 0) + 1

    def forget(self, node: Node[B]) -> None:
        """A node that nobody holds has been removed."""
        self.num_nodes -= 1
        _less(self.of, self.memory(node.block))
        left = self.plain[node.plain] - 1
        if left:
            self.plain[node.plain] = left
        else:
            del self.plain[node.plain]
        if node.parent is not None:
            self.offer(node.parent)

    def offer(self, node: Node[B]) -> None:
        """Queue a node for eviction if it is idle."""
        if node.is_idle:
            self.queue.add(node, self.num_nodes)

    def hold(self, node: Node[B]) -> None:
        """One more lease holds a node. Takes a step for each node that was not held before."""
        at: Node[B] | None = node
        while at is not None:
            at.holds += 1
            if at.holds > 1 or at.parent is None:
                return
            self.held[self.memory(at.block)] += 1
            at = at.parent

    def let_go(self, node: Node[B]) -> None:
        """One lease less holds a node. Takes a step for each node that is not held any more."""
        at: Node[B] | None = node
        while at is not None:
            at.holds -= 1
            if at.holds or at.parent is None:
                return
            _less(self.held, self.memory(at.block))
            self.offer(at)
            at = at.parent
