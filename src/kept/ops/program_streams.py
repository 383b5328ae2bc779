"""The lines of rows of several streams, as operations of a native program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.ops import lines
from kept.ops.native_activation import native_activation
from kept.ops.row_buffers import RowBuffers

if TYPE_CHECKING:
    from kept import _native

StreamLine = lines.Columns | lines.Match | lines.Predict | lines.Correct | lines.GateSparsely


def add_stream_line(native: _native.Program, buffers: RowBuffers, line: StreamLine) -> None:
    """Add a line to a program. Mutates both."""
    match line:
        case lines.Columns(x, begin, width, out, to, weight, add):
            native.columns(buffers[x], begin, width, buffers[out], to, weight, add)
        case lines.Match(x, like, least, out, to, add):
            native.match(buffers[x], buffers[like], least, buffers[out], to, add)
        case lines.Predict(x, count, routes, weight):
            native.predict(buffers[x], count, buffers[routes], weight)
        case lines.Correct(x, count, routes, weight, active, index):
            native.correct(buffers[x], count, buffers[routes], weight, buffers[active], index)
        case lines.GateSparsely(gates, ups, deviations, activation, out):
            native.gate_sparsely(
                buffers[gates], buffers[ups], deviations, native_activation(activation),
                buffers[out],
            )  # fmt: skip
