"""Taking one text out of a prefix tree, whoever holds it.

root ── a ── b ── c ── d        dropping d takes d and c, which no other text needs
             └── e              b and a are where they were, for e
"""

from __future__ import annotations

from typing import TypeVar

from kept.blocks.forest import Forest
from kept.blocks.node import Node, Root
from kept.blocks.tally import walk

B = TypeVar("B")
ID_DIGITS = 24  # of a key that name a text


def text_id(node: Node[B]) -> str:
    """What a text that ends in a node goes by."""
    return node.key.hex()[:ID_DIGITS]


def drop_text(forest: Forest[B], id: str, salt: str) -> list[bytes]:
    """Let the text of this `text_id` be found no more, nor what goes on from it, with the blocks
    before its end that no other text needs; returns the keys of what went, none where nobody knows
    it. What is leased is let go when its leases end. To be called in a change of the forest."""
    root = forest.roots.get(salt)
    last = None if root is None else next((x for x in walk([root]) if text_id(x) == id), None)
    if root is None or last is None:
        return []
    gone: list[Node[B]] = [last, *walk([last])]
    node = last.parent
    while node is not None and not isinstance(node, Root) and len(node.children) == 1:
        gone.insert(0, node)
        node = node.parent
    for node in reversed(gone):  # at any moment a linked node is in the forest
        assert node.parent is not None
        node.parent.remove(node)
    forest.count()
    return [node.key for node in gone]
