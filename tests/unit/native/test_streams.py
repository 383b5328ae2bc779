"""Rows of several streams on the kernels, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kept.ops import pack_matrix, streams, trace, trace_streams
from kept.ops.trace import Rows

from .driving import Rig

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WIDTHS = (1, 7, 33, 96)
COUNT = 5


class Streams:
    """A rig whose buffers are rows that operations of a trace take."""

    def __init__(self) -> None:
        self.rig = Rig()

    def __call__(self, x: Tensor) -> Rows:
        return Rows(self.rig.traced, self.rig.rows(x))

    def found(self, *made: Rows, threads: int = 2) -> list[Tensor]:
        program, _ = self.rig.run(COUNT, threads=threads)
        return [program.rows(x.buffer, COUNT) for x in made]


def drawn(*widths: int) -> list[Tensor]:
    return [torch.randn(COUNT, width) for width in widths]


@pytest.mark.parametrize("width", WIDTHS)
def test_streams_spread_and_joined(isa: str, width: int) -> None:
    x, left, right = drawn(width, width, width)
    right[2] = 1e-4 * right[2]  # smaller than it is taken for
    rows = Streams()
    taken, *sides = rows(x), rows(left), rows(right)
    wide, mean = (take(taken, sides, 1e-5) for take in (trace_streams.spread, trace_streams.joined))
    found = rows.found(wide, mean)
    torch.testing.assert_close(found[0], streams.spread(x, [left, right], 1e-5), **CLOSE)
    torch.testing.assert_close(found[1], streams.joined(x, [left, right], 1e-5), **CLOSE)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 4, 8])
def test_streams_predicted_and_corrected(isa: str, width: int, count: int) -> None:
    x, routes, active = drawn(width * count, count, width)
    prediction, correction = torch.randn(count**2, count), torch.randn(count, count)
    index = count - 1
    rows = Streams()
    by = rows(routes)
    one = trace_streams.predict(rows(x), by, prediction)
    other = trace_streams.correct(rows(x), by, correction, rows(active), index)
    found = rows.found(one, other)
    torch.testing.assert_close(found[0], streams.predict(x, routes, prediction), **CLOSE)
    expected = streams.correct(x, routes, correction, active, index)
    torch.testing.assert_close(found[1], expected, **CLOSE)
    for more in (1, 3):  # the same bits on any threads
        again = Streams()
        taken = trace_streams.predict(again(x), again(routes), prediction)
        assert torch.equal(again.found(taken, threads=more)[0], found[0])


@pytest.mark.parametrize("width", WIDTHS)
def test_columns_and_what_is_added_behind(isa: str, width: int) -> None:
    x, y = drawn(3 * width, width)
    weight = torch.randn(width)
    rows = Streams()
    whole = rows(x)
    cut = trace_streams.columns(whole, width, width)
    weighed = trace_streams.columns(whole, 2 * width, width, weight)
    eye = pack_matrix(torch.eye(width), "bf16")
    read = trace.linear(trace_streams.columns(whole, width, width), eye)
    summed = trace_streams.add_behind(rows(x), rows(y))
    found = rows.found(cut, weighed, read, summed)
    assert torch.equal(found[0], x[:, width : 2 * width])
    assert torch.equal(found[1], x[:, 2 * width :] * weight)
    assert torch.equal(found[2], x[:, width : 2 * width].bfloat16().float())
    assert torch.equal(found[3], streams.add_behind(x, y))


@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "relu", "silu"])
@pytest.mark.parametrize("width", WIDTHS)
def test_sparse_gates(isa: str, width: int, activation: str) -> None:
    gates, ups = drawn(width, width)
    gates += 3.0
    rows = Streams()
    made = trace_streams.gated_sparsely(rows(gates), rows(ups), 0.3, activation)
    eye = pack_matrix(torch.eye(width), "bf16")
    again = trace_streams.gated_sparsely(rows(gates), rows(ups), 0.3, activation)
    read = trace.linear(again, eye)
    found = rows.found(made, read)
    expected = streams.gated_sparsely(gates, ups, 0.3, activation)
    assert width == 1 or (expected == 0).any()
    torch.testing.assert_close(found[0], expected, **CLOSE)
    torch.testing.assert_close(found[1], expected, rtol=1e-2, atol=1e-2)


def test_what_lies_beyond_its_rows_is_refused(isa: str) -> None:
    rows = Streams()
    x, narrow = rows(torch.randn(COUNT, 12)), rows(torch.randn(COUNT, 4))
    trace_streams.columns(x, 8, 5)
    with pytest.raises(ValueError, match="columns lie beyond their rows"):
        rows.found()
    rows = Streams()
    x, narrow = rows(torch.randn(COUNT, 12)), rows(torch.randn(COUNT, 5))
    trace_streams.predict(x, narrow, torch.randn(25, 5))
    with pytest.raises(ValueError, match="streams are alike"):
        rows.found()
    rows = Streams()
    x, narrow = rows(torch.randn(COUNT, 12)), rows(torch.randn(COUNT, 5))
    trace_streams.gated_sparsely(x, narrow, 1.0, "silu")
    with pytest.raises(ValueError, match="as many as what they gate"):
        rows.found()
