"""The blocks that hold the same tokens, one for each group of layers."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from kept.blocks.pool import Block


class Stack:
    """Blocks of one piece of a text. blocks: of each group of layers, in the order of the cache's;
    None: that group holds these tokens no more, as its window has passed them. ticket: what a
    shelf knows it by. is_stored: whether keys and values were read from files, not computed."""

    __slots__ = ("__weakref__", "blocks", "is_stored", "ticket")

    def __init__(self, blocks: Sequence[Block | None], is_stored: bool = False) -> None:
        self.blocks, self.is_stored = tuple(blocks), is_stored
        self.ticket: weakref.ref[Stack] | None = None

    def take_in(self, other: Stack) -> None:
        """Hold what another stack of the same tokens does, where this one has a gap."""
        pairs = zip(self.blocks, other.blocks, strict=True)
        self.blocks = tuple(b if a is None else a for a, b in pairs)

    def __repr__(self) -> str:
        return f"<Stack {' '.join('.' if x is None else str(x.id) for x in self.blocks)}>"
