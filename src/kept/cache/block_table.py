"""In which blocks the tokens of one slot lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kept.blocks import BLOCK, Block, blocks_of

NO_HOLE = range(0)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The blocks of a slot, in the order of its tokens, and those that it has room in.

    blocks: None: it has been let go. appends: whether tokens may be written behind the frozen ones
    of a block that is not full. ids: the blocks' numbers, int32, 0 where there is none. hole: which
    of them have been let go, all those between two.
    """

    blocks: tuple[Block | None, ...]
    appends: bool
    ids: NDArray[np.int32]
    hole: range = NO_HOLE

    @classmethod
    def of(cls, blocks: Sequence[Block | None], appends: bool) -> Table:
        """A table of these blocks."""
        numbers = (0 if block is None else block.id for block in blocks)
        ids = np.fromiter(numbers, np.int32, len(blocks))
        gone = [i for i, block in enumerate(blocks) if block is None]
        hole = range(gone[0], gone[-1] + 1) if gone else NO_HOLE
        return cls(tuple(blocks), appends, ids, hole)

    @property
    def held(self) -> list[int]:
        """The numbers of its blocks."""
        ids: list[int] = self.ids.tolist()
        return ids[: self.hole.start] + ids[self.hole.stop :]

    @property
    def gone(self) -> range:
        """The tokens that lay in blocks that have been let go."""
        return range(self.hole.start * BLOCK, self.hole.stop * BLOCK)

    def first(self, num_tokens: int) -> Table:
        """With the blocks that so many tokens lie in."""
        count = blocks_of(num_tokens)
        if count >= len(self.blocks):
            return self
        hole = range(self.hole.start, min(self.hole.stop, count))
        return Table(self.blocks[:count], self.appends, self.ids[:count], hole or NO_HOLE)

    def without(self, gone: range) -> Table:
        """With these blocks let go, besides those that have been."""
        gone = range(gone.start, min(gone.stop, len(self.blocks)))
        if not gone or gone.stop <= self.hole.stop:
            return self
        ids = self.ids.copy()
        ids[gone.start : gone.stop] = 0
        none = (None,) * len(gone)
        blocks = self.blocks[: gone.start] + none + self.blocks[gone.stop :]
        return Table(blocks, self.appends, ids, gone)

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
        for index, block in enumerate(found.blocks):
            if block is not None:
                block.freeze(min(BLOCK, num_tokens - index * BLOCK))
        return Table(found.blocks, False, found.ids, found.hole)


EMPTY = Table.of((), True)


def side_by_side(tables: Sequence[Table]) -> NDArray[np.int32]:
    """(B, n) the blocks' numbers of some tables, shorter ones filled up with block 0."""
    rows = [table.ids for table in tables]
    found = np.zeros((len(rows), max(1, *map(len, rows))), dtype=np.int32)
    for into, ids in zip(found, rows, strict=True):
        into[: len(ids)] = ids
    return found


def rows_in_blocks(
    table: NDArray[np.int32],
    starts: tuple[int, ...],
    lengths: Sequence[int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Blocks and entries, (N,) each, that a step's rows are written to.

    table: (B, n). lengths: (B,) before the step.
    """
    sequence = np.repeat(np.arange(len(lengths)), np.diff(starts))
    first = np.asarray(lengths) - np.asarray(starts[:-1])
    tokens = np.arange(starts[-1]) + first[sequence]
    found = table[sequence, tokens // BLOCK].astype(np.int64), tokens % BLOCK
    blocks, entries = (torch.as_tensor(x, device="cpu").to(device) for x in found)
    return blocks, entries
