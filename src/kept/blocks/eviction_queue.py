"""Which of the blocks that may go goes first: the one of the lowest rank, of equal ones the one
that has waited longest.

A rank only rises, so an entry may be of a lower rank than its block has by now, never of a higher
one. What comes up is looked at then: a block that may not go any more is left out, and one that has
risen goes back by its rank. Each of these is paid for by the call that queued the block or used it,
so a pop takes O(log n) over time, and using a block costs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

from kept.blocks.node import Node

B = TypeVar("B")
SLACK = 64  # entries of blocks that are gone that are never worth sweeping


class EvictionQueue(Generic[B]):
    """Idle nodes, the one to go first in front. `queued` says of a node that it has its entry."""

    def __init__(self, nodes: Iterable[Node[B]] = ()) -> None:
        self._numbers = count()
        self._heap: list[tuple[float, int, Node[B]]] = []
        for node in nodes:
            node.queued = True
            self._heap.append((node.rank, next(self._numbers), node))
        heapify(self._heap)

    @property
    def entries(self) -> list[tuple[float, int, Node[B]]]:
        """Rank, number and node of every entry, in no order."""
        return self._heap

    def add(self, node: Node[B], num_blocks: int) -> None:
        """Queue an idle node of a tree of so many blocks, if it is not queued."""
        if node.queued:
            return
        if len(self._heap) > 2 * num_blocks + SLACK:
            # At least half of them are of nodes that went otherwise.
            self._heap = [entry for entry in self._heap if entry[2].is_linked]
            heapify(self._heap)
        node.queued = True
        heappush(self._heap, (node.rank, next(self._numbers), node))

    def pop(self) -> Node[B] | None:
        """The idle node that goes first, None: there is none. It is not queued any more."""
        node = self.first()
        if node is not None:
            heappop(self._heap)
            node.queued = False
        return node

    def first(self) -> Node[B] | None:
        """The idle node that goes first, None: there is none."""
        while self._heap:
            rank, _, node = self._heap[0]
            if not (node.is_idle and node.is_linked):
                heappop(self._heap)
                node.queued = False
            elif node.rank != rank:
                heapreplace(self._heap, (node.rank, next(self._numbers), node))
            else:
                return node
        return None
