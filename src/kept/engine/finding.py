"""What a prefix tree has of a sequence's text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kept.blocks import BLOCK, Block, Match, PrefixTree
from kept.engine.continuation import Continuation


def findable(continuation: Continuation) -> NDArray[np.int64]:
    """What may be taken over of a text: all but its last token, whose logits are needed."""
    return continuation.history.tokens[:-1]


def num_shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many first tokens two texts have in common."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length


def find(tree: PrefixTree[Block], continuation: Continuation, salt: str) -> Match[Block]:
    """What the tree has of a continuation's text, leased."""
    return tree.match(findable(continuation), salt)


def only_whole(
    tree: PrefixTree[Block], match: Match[Block], continuation: Continuation, salt: str
) -> Match[Block]:
    """A match, leased in its place, without a last block of which some tokens alone were found."""
    num_rest = match.num_tokens % BLOCK
    if not num_rest:
        return match
    with match:
        found = tree.match(findable(continuation)[: match.num_tokens - num_rest], salt)
    return replace(found, miss=match.miss)
