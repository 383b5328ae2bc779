"""The rows between the lines of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from kept.ops.packed import PackedMatrix


@dataclass(eq=False)
class Buffer:
    """Rows of `width` numbers that lines read and write. feeds: what linear layers read it. sums:
    whether residual sums are made in it, for which it has to stay fp32. per_row: how many there are
    for each row of a step."""

    width: int
    feeds: list[PackedMatrix] = field(default_factory=list)
    sums: bool = False
    per_row: int = 1

    @property
    def row_bytes(self) -> int:
        """Of those of one row, padded to 32 numbers of four bytes."""
        return self.per_row * -(-self.width // 32) * 128


@dataclass(eq=False)
class CodeBuffer(Buffer):
    """Rows of int8 codes, in the order that weights of a format take them: int8, or int4 for all
    of four bits."""

    format: str = "int8"

    @property
    def row_bytes(self) -> int:
        """Of those of one row: codes padded to 32, and a scale and a start for as many, in whole
        lines."""
        return self.per_row * -(-(-(-self.width // 32) * 40) // 64) * 64


@dataclass(eq=False)
class PositionBuffer(Buffer):
    """Stands for rows of a table of positions, which join the embedding's line."""

    table: Tensor | None = None
