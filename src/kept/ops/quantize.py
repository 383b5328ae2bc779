"""Weight matrices as 8-bit or 4-bit codes and scales: the specification of both formats.

    int8    weight[o, i] = codes[o, i] * scales[o]                        codes -127 .. 127
    int4    weight[o, i] = INT4_LEVELS[codes[o, i]] * scales[o, i // 32]  codes 0 .. 15

Two more that others quantize to are held as they are (blocks.py):

    q8_0    weight[o, i] = codes[o, i] * scales[o, i // 32]               codes -127 .. 127
    q4_0    weight[o, i] = (codes[o, i] - 8) * scales[o, i // 32]         codes 0 .. 15

The levels of int4 lie closer together near zero, as weights do. They were found by Lloyd's
iteration (1982) on normally distributed groups of 32 with the search below, zero held in place,
and rounded to whole numbers, which bf16 holds exactly. They reach further down than up, so a
group is stored the way round that fits it: its scale may be negative. What else was weighed:
docs/decisions/int4.md.

native/quantize_rows.h does the same on the CPU, bit for bit and many times faster. So that it can,
sums are taken in halves here: torch's own depend on the vectors of the CPU.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from kept.errors import OptionError, WeightsError
from kept.ops.backend import backend, isa, use_threads
from kept.ops.plain import plain_torch

QuantizedFormat = Literal["int8", "int4"]
QUANTIZED_FORMATS: tuple[QuantizedFormat, ...] = get_args(QuantizedFormat)
BlockFormat = Literal["q8_0", "q4_0"]
BLOCK_FORMATS: tuple[BlockFormat, ...] = get_args(BlockFormat)
CodeFormat = QuantizedFormat | BlockFormat

INT4_GROUP = 32  # inputs that share a scale, where an output has more than one
INT4_LEVELS = (-127, -96, -76, -60, -46, -33, -22, -11, 0, 11, 23, 36, 49, 65, 84, 110)
INT4_ZERO = 8  # the code of level 0
Q4_0_LEVELS = tuple(range(-8, 8))

_INT8_MAX = 127
_LOWEST = INT4_LEVELS[0]
# What the first scales make of a group's largest element, as a share of the lowest level. A value
# below 1 gives up some of the largest element for finer steps.
_SHARES = (0.8, 0.9, 1.0)
_NUM_REFINEMENTS = 2
_PIECE = (
    1 << 20
)  # numbers worked on at a time, so that a large matrix needs little memory beside it

# Levels are whole numbers, so the nearest one changes at multiples of a half and nowhere else. A
# table over halves finds it many times faster than torch.bucketize.
_EDGES = [low + high for low, high in pairwise(INT4_LEVELS)]  # halves midway between two levels
_HALVES = range(2 * _LOWEST, -2 * _LOWEST + 1)
_CODE_AT = tuple(bisect_left(_EDGES, half) for half in _HALVES)
_LEVEL_AT = tuple(INT4_LEVELS[code] for code in _CODE_AT)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """A matrix (out, in) as codes and scales.

    format: "int8", "int4", "q8_0" or "q4_0". codes: (out, in), int8 or, where codes are of four
    bits, uint8 that holds one each. scales: of int8 (out,) fp32, of the others (out, ceil(in / 32))
    in bf16 (int4) or fp16, which may be negative.
    """

    format: CodeFormat
    codes: Tensor
    scales: Tensor


@plain_torch()
def quantize(
    weight: Tensor, format: str, progress: Callable[[int], None] | None = None
) -> QuantizedMatrix:
    """Round a matrix to "int8" or "int4", from the weights alone.

    weight: (out, in) of floats, on any device; codes and scales are on the same. int8 takes each
    row's largest magnitude / 127 as its scale, so no number moves by more than half a step. int4
    looks for the scale of least squared error: three that reach for the largest element of the
    group, each with either sign, then the least squares of the codes so found, twice. Scales are
    rounded to bf16 before codes are chosen for them. progress: called with the numbers done so far.

    Raises OptionError for another format and for what is no matrix of floats, WeightsError for
    numbers that are not finite.
    """
    if format not in QUANTIZED_FORMATS:
        raise OptionError(f"format {format!r} is not one of {', '.join(QUANTIZED_FORMATS)}")
    if weight.dim() != 2 or not weight.numel() or not weight.is_floating_point():
        raise OptionError(
            f"a tensor of shape {tuple(weight.shape)} and {weight.dtype} cannot be quantized; give "
            "a matrix (out, in) of floating-point numbers"
        )
    weight = weight.detach()
    (num_out, num_in), device = weight.shape, weight.device
    int8 = format == "int8"
    codes = torch.empty(num_out, num_in, dtype=torch.int8 if int8 else torch.uint8, device=device)
    shape = (num_out,) if int8 else (num_out, -(-num_in // INT4_GROUP))
    dtype = torch.float32 if int8 else torch.bfloat16
    scales = torch.empty(shape, dtype=dtype, device=device)
    quantize_piece = _on_kernels if device.type == "cpu" and backend() == "native" else _in_torch
    for rows in _pieces(num_out, num_in):
        quantize_piece(weight[rows], codes[rows], scales[rows], rows.start, format)
        if progress is not None:
            progress(rows.stop * num_in)
    return QuantizedMatrix("int8" if int8 else "int4", codes, scales)


@plain_torch()
def dequantize(matrix: QuantizedMatrix) -> Tensor:
    """The numbers a quantized matrix stands for, (out, in) fp32; exact but for int8."""
    codes, scales = matrix.codes, matrix.scales
    out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    for rows in _pieces(*codes.shape):
        whole = code_levels(matrix.format, codes[rows], torch.float32)
        if matrix.format == "int8":
            out[rows] = whole * scales[rows, None]
        else:
            each = scales[rows].float().repeat_interleave(INT4_GROUP, 1)[:, : codes.shape[1]]
            out[rows] = whole * each
    return out


def code_levels(format: CodeFormat, codes: Tensor, dtype: torch.dtype) -> Tensor:
    """The whole numbers that codes of a format stand for, as `dtype`."""
    if format in ("int8", "q8_0"):
        return codes.to(dtype)
    levels = INT4_LEVELS if format == "int4" else Q4_0_LEVELS
    return _table(levels, dtype, codes.device)[codes.int()]


@cache
def _table(numbers: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made at first use: an import computes nothing in torch, whose threads a fork would lose."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def _pieces(num_out: int, num_in: int) -> Iterator[slice]:
    step = max(_PIECE // num_in, 1)
    return (slice(start, min(start + step, num_out)) for start in range(0, num_out, step))


def _in_torch(weight: Tensor, codes: Tensor, scales: Tensor, first_row: int, format: str) -> None:
    """Fill the codes and scales of some rows; the first of them is `first_row` of the matrix."""
    piece = weight.float().contiguous()
    _check_finite(piece, first_row, format)
    found = _to_int8(piece) if format == "int8" else _to_int4(piece)
    codes.copy_(found[0])
    scales.copy_(found[1])


def _on_kernels(weight: Tensor, codes: Tensor, scales: Tensor, first_row: int, format: str) -> None:
    """See `_in_torch`."""
    from kept import _native

    use_threads()
    is_bf16 = weight.dtype == torch.bfloat16
    piece = weight.contiguous() if is_bf16 else weight.float().contiguous()
    num_rows, num_in = piece.shape
    wrong = _native.quantize(
        isa(),
        getattr(_native.Format, format),
        piece,
        num_rows,
        num_in,
        codes,
        scales,
    )
    if wrong >= 0:
        _check_finite(piece, first_row, format)


def _check_finite(piece: Tensor, first_row: int, format: str) -> None:
    wrong = ~piece.isfinite()
    if not wrong.any():
        return
    row, column = wrong.nonzero()[0].tolist()
    raise WeightsError(
        f"the weight at row {first_row + row}, column {column} is {piece[row, column].item()}, "
        f"which {format} has no code for; repair the checkpoint, or load it unquantized"
    )


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:  # (R, in) -> (R, in) int8, (R,) fp32
    scales = weight.abs().amax(1) / _INT8_MAX
    codes = (weight / _divisor(scales)[:, None]).round().clamp(-_INT8_MAX, _INT8_MAX)
    return codes.to(torch.int8), scales


def _to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:  # (R, in) -> (R, in) uint8, (R, P) bf16
    num_rows, num_in = weight.shape
    padded = F.pad(weight, (0, -num_in % INT4_GROUP))
    groups = padded.view(-1, INT4_GROUP)
    scales = _search(groups)
    codes = _table(_CODE_AT, torch.uint8, weight.device)[_halves(groups, scales)]
    return codes.view(num_rows, -1)[:, :num_in], scales.view(num_rows, -1).bfloat16()


def _search(groups: Tensor) -> Tensor:  # (R, 32) -> (R, 1) fp32 that bf16 holds exactly
    high, low = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
    largest = torch.where(high >= -low, high, low)
    # Errors are compared relative to the group's size: squares of tiny weights would be zero.
    relative = groups / _divisor(largest)
    best, least = torch.zeros_like(largest), _sum(relative.square())

    def attempt(scales: Tensor) -> None:
        nonlocal best, least
        scales = scales.bfloat16().float()
        error = relative - _nearest(groups, scales) * (scales / _divisor(largest))
        error = _sum(error.square())
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)

    for share in _SHARES:
        for sign in (1, -1):
            attempt(largest * (sign * share / _LOWEST))
    for _ in range(_NUM_REFINEMENTS):
        nearest = _nearest(groups, best)
        squares = _sum(nearest.square())
        attempt(_sum(groups * nearest) / _divisor(squares))
    return best


def _sum(groups: Tensor) -> Tensor:  # (R, 32) -> (R, 1)
    while groups.shape[1] > 1:
        half = groups.shape[1] // 2
        groups = groups[:, :half] + groups[:, half:]
    return groups


def _nearest(groups: Tensor, scales: Tensor) -> Tensor:
    """The level nearest to each number, in units of its scale; of two as near, the lower."""
    level_at = _table(_LEVEL_AT, torch.float32, groups.device)
    found = level_at.index_select(0, _halves(groups, scales).view(-1))
    return found.view(groups.shape)


def _halves(groups: Tensor, scales: Tensor) -> Tensor:  # (R, 32) int32, places in the tables
    halves = groups.mul(2).div_(_divisor(scales)).ceil_()
    return halves.clamp_(2 * _LOWEST, -2 * _LOWEST).int() - 2 * _LOWEST


def _divisor(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1, x)
