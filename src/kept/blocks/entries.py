"""What a prefix tree holds, as a list for people to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kept.blocks.keys import token_ids
from kept.blocks.node import Node, Root
from kept.blocks.tally import walk

B = TypeVar("B")
DIGITS = 12  # of a key that tell blocks apart


@dataclass(frozen=True, slots=True)
class Entry:
    """A block that can be found.

    salt: the first digits of a hash of its salt. key, after: the first digits of its key, and of
    the key of the block or root that it follows. start: the index of its first token in the text.
    tokens: its ids. last_use: when it, or what follows it, was last used, in seconds of the tree's
    clock. num_leases: how many leases hold it.
    """

    salt: str
    key: str
    after: str
    start: int
    tokens: tuple[int, ...]
    last_use: float
    num_leases: int


def list_entries(roots: Iterable[Root[B]], held: Sequence[Node[B]], block: int) -> list[Entry]:
    """An entry for each node below the roots, parents first. held: the node of each lease."""
    found = []
    for root in roots:
        nodes = list(walk([root]))
        leases, uses = dict.fromkeys(nodes, 0), {node: node.last_use for node in nodes}
        for node in held:
            if node in leases:
                leases[node] += 1
        for node in reversed(nodes):
            parent = node.parent
            if parent in leases:
                leases[parent] += leases[node]
                uses[parent] = max(uses[parent], uses[node])
        found += [
            Entry(
                salt=root.key.hex()[:DIGITS],
                key=node.key.hex()[:DIGITS],
                after="" if node.parent is None else node.parent.key.hex()[:DIGITS],
                start=(node.depth - 1) * block,
                tokens=tuple(token_ids(node.tokens)),
                last_use=uses[node],
                num_leases=leases[node],
            )
            for node in nodes
        ]
    return found
