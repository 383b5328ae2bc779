"""The texts that a prefix tree knows, as a list for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from kept.blocks.dropping import text_id
from kept.blocks.keys import TOKEN_BYTES
from kept.blocks.node import Node, Root
from kept.blocks.tally import walk

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class KnownText:
    """A text that can be found, up to its last block.

    id: its name for `PrefixTree.drop`, which changes as it grows. salt: of those who find it.
    num_tokens, num_bytes: all of it. num_own_tokens, num_own_bytes: behind what it shares with
    other known texts, so what dropping it lets go. num_stored: its tokens that were read from
    files; the others were computed. last_use, until: seconds of the tree's clock: when it was last
    used, and until when it counts as used. is_leased: whether somebody who runs holds it.
    """

    id: str
    salt: str
    num_tokens: int
    num_bytes: int
    num_own_tokens: int
    num_own_bytes: int
    num_stored: int
    last_use: float
    until: float
    is_leased: bool


class _Way(NamedTuple):
    """What is known of a text as far as a node: tokens and bytes in all, and behind the last node
    that another text goes on from."""

    tokens: int
    num_bytes: int
    own_tokens: int
    own_bytes: int
    stored: int


def list_texts(
    roots: Sequence[Root[B]], measure: Callable[[B], tuple[int, bool]]
) -> list[KnownText]:
    """Every text below the roots.

    measure: of what holds a block, its bytes, and whether it was read from files. Takes a step for
    each node.
    """
    texts: list[KnownText] = []
    for root in roots:
        waiting: list[tuple[Node[B], _Way]] = [
            (child, _Way(0, 0, 0, 0, 0)) for child in root.children.values()
        ]
        while waiting:
            node, before = waiting.pop()
            num_tokens = len(node.tokens) // TOKEN_BYTES
            num_bytes, is_stored = measure(node.block)
            way = _Way(
                before.tokens + num_tokens,
                before.num_bytes + num_bytes,
                before.own_tokens + num_tokens,
                before.own_bytes + num_bytes,
                before.stored + num_tokens * is_stored,
            )
            children = node.children
            if not children:
                texts.append(_text(node, root.salt, way))
                continue
            if len(children) > 1:
                way = way._replace(own_tokens=0, own_bytes=0)
            waiting += [(child, way) for child in children.values()]
    return texts


def count_texts(root: Root[B]) -> dict[Node[B], int]:
    """Every node below a root, parents first, with how many texts go through it."""
    counts = dict.fromkeys(walk([root]), 0)
    for node in reversed(counts):
        count = counts[node] = counts[node] or 1
        parent = node.parent
        if parent in counts:
            counts[parent] += count
    return counts


def _text(node: Node[B], salt: str, way: _Way) -> KnownText:
    return KnownText(
        id=text_id(node),
        salt=salt,
        num_tokens=way.tokens,
        num_bytes=way.num_bytes,
        num_own_tokens=way.own_tokens,
        num_own_bytes=way.own_bytes,
        num_stored=way.stored,
        last_use=node.last_use,
        until=node.until,
        is_leased=node.holds > 0,
    )
