"""Rows of several streams in a trace; all of it is done in place where rows are consumed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kept.ops.buffers import Buffer
from kept.ops.lines import Columns, Correct, GateSparsely, Linear, Match, Predict, Round
from kept.ops.packed import pack_matrix
from kept.ops.trace import Rows


def columns(x: Rows, begin: int, width: int, weight: Tensor | None = None) -> Rows:
    """See `ops.columns`."""
    out = Rows(x.trace, Buffer(width))
    x.trace.lines.append(Columns(x.read(), begin, width, out.buffer, 0, _widened(weight)))
    return out


def spread(x: Rows, sides: Sequence[Rows], least: float) -> Rows:
    """See `ops.spread`."""
    width = x.buffer.width
    out = Rows(x.trace, Buffer(width * (len(sides) + 1), sums=True))
    x.trace.lines.append(Columns(x.read(), 0, width, out.buffer, 0))
    for index, side in enumerate(sides, 1):
        x.trace.lines.append(Match(side.read(), x.read(), least, out.buffer, index * width))
    return out


def joined(x: Rows, sides: Sequence[Rows], least: float) -> Rows:
    """See `ops.joined`."""
    out = Rows(x.trace, Buffer(x.buffer.width, sums=True))
    x.trace.lines.append(Columns(x.read(), 0, x.buffer.width, out.buffer, 0))
    for side in sides:
        x.trace.lines.append(Match(side.read(), x.read(), least, out.buffer, 0, add=True))
    x.trace.lines.append(Round(out.buffer, out.buffer, 1 / (len(sides) + 1)))
    return out


def score(x: Rows, weight: Tensor) -> Rows:
    """See `ops.score`."""
    packed = pack_matrix(weight.detach().float(), "fp32")
    source = x.read()
    source.feeds.append(packed)
    out = Rows(x.trace, Buffer(packed.num_out))
    x.trace.lines.append(Linear(source, packed, out.buffer))
    return out


def predict(x: Rows, routes: Rows, weight: Tensor) -> Rows:
    """See `ops.predict`; in place."""
    count = routes.buffer.width
    x.trace.lines.append(Predict(x.read(), count, routes.read(), _wide(weight)))
    return x


def correct(x: Rows, routes: Rows, weight: Tensor, active: Rows, index: int) -> Rows:
    """See `ops.correct`; in place."""
    line = Correct(
        x.read(), routes.buffer.width, routes.read(), _wide(weight), active.read(), index
    )
    x.trace.lines.append(line)
    return x


def add_behind(x: Rows, y: Rows) -> Rows:
    """See `ops.add_behind`; in place."""
    width = y.buffer.width
    for begin in range(width, x.buffer.width, width):
        x.trace.lines.append(Columns(y.read(), 0, width, x.read(), begin, add=True))
    return x


def gated_sparsely(gates: Rows, ups: Rows, deviations: float, activation: str) -> Rows:
    """See `ops.gated_sparsely`."""
    out = Rows(gates.trace, Buffer(gates.buffer.width))
    line = GateSparsely(gates.read(), ups.read(), deviations, activation, out.buffer)
    gates.trace.lines.append(line)
    return out


def _wide(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


def _widened(x: Tensor | None) -> Tensor | None:
    return None if x is None else _wide(x)
