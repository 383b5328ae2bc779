"""Products of int8 activations: on every instruction set the bits of the specification in torch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kept.ops import PackedMatrix, pack_grouped, pack_int8
from kept.ops.integer_products import linear_int8, quantize_rows
from kept.ops.quantize import BLOCK_FORMATS, QUANTIZED_FORMATS, CodeFormat, QuantizedMatrix

from .driving import Rig

formats = pytest.mark.parametrize("format", QUANTIZED_FORMATS + BLOCK_FORMATS)
# Rows, inputs, outputs: every number of rows in a tile, tails of groups and of panels, and past the
# slice of inputs that many rows share.
SIZES = (
    (1, 1, 1), (1, 31, 33), (2, 33, 31), (3, 64, 64), (4, 65, 1), (5, 600, 40), (6, 130, 32),
    (7, 100, 97), (8, 63, 33), (9, 160, 32), (10, 1, 34), (11, 40, 70), (12, 200, 32),
    (13, 33, 33), (25, 600, 48), (37, 513, 17), (100, 1100, 66),
)  # fmt: skip


_ACTIVATIONS = {
    "relu": torch.relu,
    "silu": F.silu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
}


def pack(matrix: QuantizedMatrix, bias: Tensor | None, gated: bool = False) -> PackedMatrix:
    if matrix.format == "int8":
        return pack_int8(matrix.codes, matrix.scales, gated=gated, bias=bias)
    return pack_grouped(matrix.format, matrix.codes, matrix.scales, gated=gated, bias=bias)


def matrix_of(format: CodeFormat, outputs: int, inputs: int) -> QuantizedMatrix:
    """Every code, and scales of many sizes; those of groups of both signs, and of fp16 subnormal
    ones among them."""
    wide = format in ("int8", "q8_0")
    codes = torch.randint(*((-127, 128) if wide else (0, 16)), (outputs, inputs))
    shape = (outputs,) if format == "int8" else (outputs, -(-inputs // 32))
    scales = torch.ldexp(torch.randn(shape), torch.randint(-12, 0, shape))
    if format == "int8":
        scales = scales.abs()
    if format in BLOCK_FORMATS:
        scales = torch.where(torch.rand(shape) < 0.2, scales * 2.0**-14, scales).half()
    if format == "int4":
        scales = scales.bfloat16()
    return QuantizedMatrix(format, codes.to(torch.int8 if wide else torch.uint8), scales)


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32)


@formats
def test_the_bits_of_the_specification(isa: str, format: CodeFormat) -> None:
    for rows, width, outputs in SIZES:
        x, before = torch.randn(rows, width) * 3, torch.randn(rows, outputs)
        bias = torch.randn(outputs)
        matrix = matrix_of(format, outputs, width)
        expected = linear_int8(quantize_rows(x), matrix, bias)
        rig = Rig()
        residual = rig.rows(before)
        codes = rig.quantize(rig.rows(x), format)
        stored = rig.linear(codes, pack(matrix, bias))
        rig.linear(codes, pack(matrix, bias), "add", out=residual)
        program, _ = rig.run(rows)
        assert torch.equal(bits(program.rows(stored, rows)), bits(expected))
        assert torch.equal(bits(program.rows(residual, rows)), bits(before + expected))


def test_numbers_that_lie_about_halfway_between_two_codes(isa: str) -> None:
    """Where the last bit of the factor decides, which torch's own division by a number rounds."""
    x = torch.randn(40_000, 32)
    one = QuantizedMatrix("int8", torch.eye(32, dtype=torch.int8), torch.ones(32))
    rig = Rig()
    out = rig.linear(rig.quantize(rig.rows(x), "int8"), pack(one, None))
    found = rig.run(len(x))[0].rows(out, len(x))
    assert torch.equal(bits(found), bits(linear_int8(quantize_rows(x), one)))


@formats
def test_the_largest_products(isa: str, format: CodeFormat) -> None:
    """Pairs that 16 bits would not hold if a weight's offset stayed in them."""
    x = torch.full((30, 1100), 2.0)
    x[::2] = -2.0
    x[:, ::3] *= -1
    for low in (True, False):
        wide = format in ("int8", "q8_0")
        end = (-127 if low else 127) if wide else (0 if low else 15)
        matrix = matrix_of(format, 33, 1100)
        matrix.codes.fill_(end)
        expected = linear_int8(quantize_rows(x), matrix)
        for rows in (1, 30):
            rig = Rig()
            out = rig.linear(rig.quantize(rig.rows(x[:rows]), format), pack(matrix, None))
            assert torch.equal(bits(rig.run(rows)[0].rows(out, rows)), bits(expected[:rows]))


@formats
def test_rows_of_every_size(isa: str, format: CodeFormat) -> None:
    """Zeros, subnormal numbers, huge ones and ties between two codes."""
    sizes = torch.ldexp(torch.randn(280, 96), torch.arange(-150, 130)[:, None].clamp(max=126))
    ties = torch.arange(-127, 128)[None].repeat(25, 1).float() / 2
    ties[:, ::64] = 127.0
    matrix = {96: matrix_of(format, 40, 96), 255: matrix_of(format, 40, 255)}
    for x in (sizes.nan_to_num(0), ties, torch.zeros(3, 96), -torch.zeros(3, 96)):
        weight = matrix[x.shape[1]]
        expected = linear_int8(quantize_rows(x), weight)
        rig = Rig()
        out = rig.linear(rig.quantize(rig.rows(x), format), pack(weight, None))
        found = rig.run(len(x))[0].rows(out, len(x))
        assert torch.equal(bits(found.nan_to_num(7)), bits(expected.nan_to_num(7)))


@formats
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_nan(isa: str, format: CodeFormat, value: float) -> None:
    x = torch.randn(20, 130)
    x[3, 70] = x[19, 129] = value
    rig = Rig()
    matrix = matrix_of(format, 50, 130)
    out = rig.linear(rig.quantize(rig.rows(x), format), pack(matrix, None))
    found = rig.run(20)[0].rows(out, 20)
    assert found[[3, 19]].isnan().all()
    rest = [i for i in range(20) if i not in (3, 19)]
    assert torch.equal(bits(found[rest]), bits(linear_int8(quantize_rows(x), matrix)[rest]))


@formats
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu_new"])
def test_gates_lie_beside_what_they_gate(isa: str, format: CodeFormat, activation: str) -> None:
    x, matrix = torch.randn(14, 70), matrix_of(format, 2 * 37, 70)
    rig = Rig()
    codes = rig.quantize(rig.rows(x), format)
    gated = rig.linear(codes, pack(matrix, None, gated=True), "gate", activation)
    found = rig.run(14)[0].rows(gated, 14)
    gate, up = linear_int8(quantize_rows(x), matrix).chunk(2, dim=1)
    expected = _ACTIVATIONS[activation](gate) * up
    if activation == "relu":  # the only one that every instruction set rounds alike
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(up.abs().max()))


@formats
def test_a_row_is_the_same_among_any_others(isa: str, format: CodeFormat) -> None:
    x, matrix = torch.randn(60, 1030), matrix_of(format, 70, 1030)
    expected = bits(linear_int8(quantize_rows(x), matrix))
    packed = pack(matrix, None)
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 31, 59):
        for first in (0, 60 - count):
            rig = Rig()
            out = rig.linear(rig.quantize(rig.rows(x[first : first + count]), format), packed)
            found = rig.run(count, threads=1 + count % 3)[0].rows(out, count)
            assert torch.equal(bits(found), expected[first : first + count])


@formats
def test_only_the_wanted_rows_reach_the_head(isa: str, format: CodeFormat) -> None:
    x, matrix = torch.randn(7, 96), matrix_of(format, 40, 96)
    rig = Rig()
    normed = rig.norm(rig.rows(x), torch.ones(96), None, 1e-6, wanted=True)
    codes = rig.quantize(normed, format, wanted=True)
    rig.linear(codes, pack(matrix, None), "logits", wanted=True)
    _, whole = rig.run(7)
    for wanted in ([6], [0, 3], [5, 1, 2], list(range(7)) * 9):
        _, logits = rig.run(7, wanted=torch.tensor(wanted, dtype=torch.int64))
        assert torch.equal(bits(logits), bits(whole[wanted]))
