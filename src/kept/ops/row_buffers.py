"""The memory between a program's operations: which native buffer each buffer of a trace lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.ops.buffers import Buffer, CodeBuffer

if TYPE_CHECKING:
    from kept import _native

# Numbers of a row, whether they are bf16, format of codes, rows for each of a step.
Kind = tuple[int, bool, str | None, int]


class RowBuffers:
    """Native buffers, made as lines ask for them.

    reuses: blocks lie in the same memory one after the other, for programs of which nobody reads a
    block's buffers once it has run. Those of several rows for each of a step always do.
    """

    def __init__(self, native: _native.Program, reuses: bool) -> None:
        self._native, self._reuses = native, reuses
        self._found: dict[Buffer, int] = {}
        # What the block that is being added has taken, and what those before it have left.
        self._taken: list[tuple[Kind, int]] = []
        self._left: list[tuple[Kind, int]] = []
        self.row_bytes = 0  # of all of them together, for each row of a step

    def __getitem__(self, buffer: Buffer) -> int:
        """The number of the buffer's memory, which is its own for the block that it belongs to."""
        if buffer not in self._found:
            self._found[buffer] = self._take(buffer)
        return self._found[buffer]

    def keep(self, buffer: Buffer) -> None:
        """Give a buffer memory that is no block's."""
        self._found[buffer] = self._take(buffer)
        self._taken.pop()

    def begin_block(self) -> None:
        """What lines from here on ask for first may lie where the block before had its own."""
        self._left += [
            (kind, number) for kind, number in self._taken if self._reuses or kind[-1] > 1
        ]
        self._taken = []

    def _take(self, buffer: Buffer) -> int:
        format = buffer.format if isinstance(buffer, CodeBuffer) else None
        bf16 = format is None and bool(buffer.feeds) and buffer.feeds[0].format != "fp32"
        kind = buffer.width, bf16, format, buffer.per_row
        index = next((i for i, (left, _) in enumerate(self._left) if left == kind), None)
        if index is not None:
            number = self._left.pop(index)[1]
        else:
            number = self._make(kind)
            self.row_bytes += buffer.row_bytes
        self._taken.append((kind, number))
        return number

    def _make(self, kind: Kind) -> int:
        width, bf16, format, per_row = kind
        if format is not None:
            return self._native.add_code_buffer(width, format == "int4", per_row)
        return self._native.add_buffer(width, bf16, per_row)
