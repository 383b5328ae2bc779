"""In which blocks the tokens of one slot lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kept.blocks import BLOCK, Block, blocks_of


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The blocks of a slot, in the order of its tokens, and those that it has room in.

    blocks: None: a hole. appends: whether tokens may be written behind the frozen ones of a block
    that is not full. ids: the blocks' numbers, int32, 0 of a hole. num_holes: all of them come
    first.
    """

    blocks: tuple[Block | None, ...]
    appends: bool
    ids: NDArray[np.int32]
    num_holes: int = 0

    @classmethod
    def of(cls, blocks: Sequence[Block | None], appends: bool) -> Table:
        """A table of these blocks."""
        numbers = (0 if block is None else block.id for block in blocks)
        ids = np.fromiter(numbers, np.int32, len(blocks))
        holes = next((i for i, block in enumerate(blocks) if block is not None), len(blocks))
        return cls(tuple(blocks), appends, ids, holes)

    def first(self, num_tokens: int) -> Table:
        """With the blocks that so many tokens lie in."""
        count = blocks_of(num_tokens)
        if count >= len(self.blocks):
            return self
        holes = min(self.num_holes, count)
        return Table(self.blocks[:count], self.appends, self.ids[:count], holes)

    def without(self, count: int) -> Table:
        """With holes in place of so many first blocks, or more where there are."""
        count = min(count, len(self.blocks))
        if count <= self.num_holes:
            return self
        ids = self.ids.copy()
        ids[:count] = 0
        return Table((None,) * count + self.blocks[count:], self.appends, ids, count)

    def takes(self, token: int) -> bool:
        """Whether this token may be written to where it belongs, the first of a block aside."""
        index, entry = divmod(token, BLOCK)
        if not entry:
            return True
        block = self.blocks[index]
        return self.appends and block is not None and block.frozen <= entry

    def shared(self, num_tokens: int) -> Table:
        """For somebody else, with the same tokens, which are frozen from now on."""
        found = self.first(num_tokens)
        for index in range(found.num_holes, len(found.blocks)):
            block = found.blocks[index]
            if block is not None:
                block.freeze(min(BLOCK, num_tokens - index * BLOCK))
        return Table(found.blocks, False, found.ids, found.num_holes)


EMPTY = Table.of((), True)
