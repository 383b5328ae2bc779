"""Embeddings, which are exact, and norms, against float64.

A sum of n numbers errs by sqrt(n) EPS / 2 in parts of their sizes' sum, as in test_linear.py. With
d = x - mean, s = rms(d) and y = d / s:

    d   errs by   EPS (sqrt(n) mean|x| + |x|) in a layer norm; a root-mean-square norm has d = x
    s   errs by   EPS (sqrt(n) + 4) in parts, and by what d's own errors make of it
"""

import math

import pytest
import torch
from torch import Tensor

from kept.ops import pack_matrix

from .driving import EPS, FORMATS, Rig, pack_as

WIDTHS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 40, 48, 97, 129, 1000)


def normed(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x (N, n) in float64, and how far a kernel may be from it."""
    wide, width = x.double(), x.shape[1]
    mean = torch.zeros(len(x), 1) if bias is None else wide.mean(1, keepdim=True)
    d = wide - mean
    spread = (d.pow(2).mean(1, keepdim=True) + eps).sqrt()
    exact = d / spread * weight
    d_error = torch.zeros_like(d)
    if bias is not None:
        d_error = EPS * (math.sqrt(width) * wide.abs().mean(1, keepdim=True) + wide.abs())
    s_error = EPS * (math.sqrt(width) + 4) + d_error.amax(1, keepdim=True) / spread
    error = d_error / spread * weight.abs() + exact.abs() * s_error
    if bias is not None:
        exact = exact + bias
    return exact, error + EPS * exact.abs()


@pytest.mark.parametrize("biased", [False, True], ids=["rms", "layer"])
def test_norms(isa: str, biased: bool) -> None:
    for width in WIDTHS:
        for eps, size, offset in ((1e-6, 1.0, 0.0), (1e-2, 1e-3, 0.0), (1e-5, 30.0, 100.0)):
            x = size * torch.randn(6, width) + offset
            weight, bias = torch.randn(width), torch.randn(width) if biased else None
            rig = Rig()
            out = rig.norm(rig.rows(x), weight, bias, eps)
            program, _ = rig.run(6)
            exact, error = normed(x, weight, bias, eps)
            worst = ((program.rows(out, 6).double() - exact).abs() / (error + 1e-37)).max()
            assert worst <= 1, f"{worst} times the bound at width {width}"


def test_norms_of_parts_of_a_row_leave_the_rest(isa: str) -> None:
    for widths, rest in (((1, 2), 0), ((40, 33), 17), ((5,), 60), ((96, 32), 32)):
        x = torch.randn(5, sum(widths) + rest)
        weights = [torch.randn(width) for width in widths]
        rig = Rig()
        out = rig.norm_parts(rig.rows(x), weights, 1e-6)
        for threads in (1, 3):
            found = rig.run(5, threads=threads)[0].rows(out, 5)
            assert torch.equal(found[:, sum(widths) :], x[:, sum(widths) :])
            for part, some, weight in zip(
                found.split([*widths, rest], 1), x.split([*widths, rest], 1), weights, strict=False
            ):
                exact, error = normed(some, weight, None, 1e-6)
                assert ((part.double() - exact).abs() <= error + 1e-37).all()


def test_rows_that_are_added_to_are_read_rounded_once(isa: str) -> None:
    for width in (1, 31, 33, 97):
        x, w = torch.randn(6, width), pack_matrix(torch.eye(width), "bf16")
        rig = Rig()
        a = rig.rows(x)
        out = rig.linear(rig.round(a), w)
        program, _ = rig.run(6)
        assert torch.equal(program.rows(out, 6), x.bfloat16().float())
        assert torch.equal(program.rows(a, 6), x)


def test_rows_times_a_factor_and_columns_of_others(isa: str) -> None:
    for width, begin, wide in ((1, 0, 1), (31, 2, 40), (64, 30, 97), (33, 7, 40)):
        x, y = torch.randn(5, width), torch.randn(5, wide)
        y[:, :begin] = torch.nan
        y[:, begin + width :] = torch.inf
        rig = Rig()
        a = rig.rows(x)
        out = rig.round(a, 0.3, rig.rows(y), begin)
        eye = pack_matrix(torch.eye(width), "bf16")
        narrow = rig.linear(rig.round(a, 1.0, rig.rows(y), begin), eye)
        there = rig.rows(x)
        rig.round(there, 0.7, out=there)
        program, _ = rig.run(5)
        columns = y[:, begin : begin + width]
        assert torch.equal(program.rows(out, 5), x * torch.tensor(0.3) * columns)
        assert torch.equal(program.rows(narrow, 5), (x * columns).bfloat16().float())
        assert torch.equal(program.rows(there, 5), x * torch.tensor(0.7))


@pytest.mark.parametrize("biased", [False, True], ids=["rms", "layer"])
def test_a_row_is_the_same_among_any_others(isa: str, biased: bool) -> None:
    for width in WIDTHS:
        x, weight, bias = torch.randn(7, width), torch.randn(width), torch.randn(width)
        rig = Rig()
        out = rig.norm(rig.rows(x), weight, bias if biased else None, 1e-6)
        whole = rig.run(7)[0].rows(out, 7)
        for order in ([3], [6, 0], [5, 5, 1, 2]):
            for threads in (1, 3):
                tokens = torch.tensor(order)
                program, _ = rig.run(len(order), tokens=tokens, threads=threads)
                assert torch.equal(program.rows(out, len(order)), whole[order])


def test_what_feeds_a_layer_is_rounded_and_padded(isa: str) -> None:
    for width in WIDTHS:
        x, weight = torch.randn(5, width), torch.randn(width)
        rig = Rig()
        a = rig.rows(x)
        wide = rig.norm(a, weight, None, 1e-6)
        narrow = rig.norm(a, weight, None, 1e-6)
        back = rig.linear(narrow, pack_as("bf16", torch.eye(width)))
        program, _ = rig.run(5)
        assert torch.equal(program.rows(back, 5), program.rows(wide, 5).bfloat16().float())


def test_wanted_rows_alone_are_normed(isa: str) -> None:
    x = torch.randn(6, 33)
    rig = Rig()
    a = rig.rows(x)
    every = rig.norm(a, torch.ones(33), None, 1e-6)
    some = rig.norm(a, torch.ones(33), None, 1e-6, wanted=True)
    program, _ = rig.run(6, wanted=torch.tensor([4, 0, 5]))
    assert torch.equal(program.rows(some, 3), program.rows(every, 6)[[4, 0, 5]])


@pytest.mark.parametrize("biased", [False, True], ids=["rms", "layer"])
def test_a_norm_is_added_where_it_belongs(isa: str, biased: bool) -> None:
    for width in WIDTHS:
        x, y = torch.randn(5, width), torch.randn(5, width)
        weight, bias = torch.randn(width), torch.randn(width) if biased else None
        rig = Rig()
        a = rig.rows(x)
        alone = rig.norm(a, weight, bias, 1e-6)
        sums = rig.linear(rig.rows(y), pack_matrix(torch.eye(width), "fp32"))
        rig.norm(a, weight, bias, 1e-6, add_to=sums)
        program, _ = rig.run(5)
        assert torch.equal(program.rows(sums, 5), y + program.rows(alone, 5))


@pytest.mark.parametrize("biased", [False, True], ids=["rms", "layer"])
def test_strange_rows_stay_alone(isa: str, biased: bool) -> None:
    x, bias = torch.randn(4, 40), torch.zeros(40) if biased else None

    def norms() -> Tensor:
        rig = Rig()
        out = rig.norm(rig.rows(x), torch.ones(40), bias, 1e-6)
        return rig.run(4)[0].rows(out, 4)

    clean = norms()
    for strange in (torch.nan, torch.inf, -torch.inf):
        x[1, 39] = strange
        found = norms()
        assert not found[1].isfinite().all()
        assert torch.equal(found[[0, 2, 3]], clean[[0, 2, 3]])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scale", [1.0, 6.25])
@pytest.mark.parametrize("positions", [False, True], ids=["", "positions"])
def test_embeddings_are_exact(isa: str, format: str, positions: bool, scale: float) -> None:
    for width in (1, 31, 32, 33, 70):
        table = pack_as(format, torch.randn(50, width))
        learned = torch.randn(20, width) if positions else None
        tokens, places = torch.randint(0, 50, (9,)), torch.randint(0, 20, (9,))
        rig = Rig()
        out = rig.embed(table, learned, scale)
        for threads in (1, 2):
            program, _ = rig.run(9, tokens=tokens, positions=places, threads=threads)
            expected = table.unpack()[tokens] * scale
            if learned is not None:
                expected = expected + learned[places]
            assert torch.equal(program.rows(out, 9), expected)


def test_a_table_may_be_a_heads_too(isa: str) -> None:
    """Tied weights: one matrix is looked up in, and multiplied with."""
    table = pack_matrix(torch.randn(40, 33), "fp32")
    rig = Rig()
    a = rig.embed(table)
    rig.linear(a, table, "logits")
    program, logits = rig.run(5)
    torch.testing.assert_close(logits, table.unpack()[:5] @ table.unpack().T)
    assert [first for _, first in program.best()] == logits.argmax(1).tolist()


def test_what_is_not_there_is_refused(isa: str) -> None:
    rig = Rig()
    rig.embed(pack_matrix(torch.randn(5, 3), "fp32"), torch.randn(7, 3))
    rig.run(5)
    for message, wrong in (
        ("token 5 does not exist: there are 5", {"tokens": torch.tensor([0, 5])}),
        ("token -1 ", {"tokens": torch.tensor([-1, 0])}),
        ("position 7 .* are 7", {"positions": torch.tensor([7, 0])}),
        ("wanted row 2 .* are 2", {"wanted": torch.tensor([2])}),
    ):
        with pytest.raises(IndexError, match=message):
            rig.run(2, **wrong)  # type: ignore[arg-type]
