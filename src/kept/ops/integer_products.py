"""Products of int8 activations with weights that are whole numbers and scales: the specification.

A row of activations becomes int8 codes and a scale for each group of 32 inputs:

    scale = largest magnitude / 127      code = round(x * (127 / largest magnitude)), to even
    x is about code * scale

Groups smaller than 2^-100 throughout are zeros; one that holds a number which is not finite has
NaN for its scale, so that whatever it enters is NaN too. Codes are multiplied as whole numbers and
summed over a group: exactly, and so in any order. What is left is one chain of fp32 an output,
of multiply-adds that are rounded once, as fma does; other products and sums are rounded each:

    int8    sum = 0;  for each 32 inputs in ascending order:  sum = fma(dot, scale, sum)
            y = sum * weight's scale + bias
    int4    sum = 0;  for each 32:  sum = fma(dot * group's weight scale, scale, sum)
            y = sum + bias
    q8_0, q4_0   as int4

So results are equal bit for bit on every instruction set, whichever rows come together. Why groups
are of 32, and what that costs: docs/decisions/integer-products.md. native/encode_rows.h and
native/code_tile.h do the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kept.errors import OptionError
from kept.ops.plain import plain_torch
from kept.ops.quantize import QuantizedMatrix, code_levels

ACTIVATION_GROUP = 32  # inputs of a row that share a scale

_INT8_MAX = 127
_SMALLEST = 2.0**-100


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedRows:
    """Rows of activations. codes: (N, in) int8. scales: (N, ceil(in / 32)) fp32."""

    codes: Tensor
    scales: Tensor


@plain_torch()
def quantize_rows(x: Tensor) -> QuantizedRows:
    """Round activations x (N, in) of floats to int8."""
    num_in = x.shape[1]
    padded = F.pad(x.float(), (0, -num_in % ACTIVATION_GROUP))
    groups = padded.view(len(x), -1, ACTIVATION_GROUP)  # (N, G, 32)
    largest = groups.abs().amax(-1, keepdim=True)
    finite = groups.isfinite().all(-1, keepdim=True)
    used = finite & (largest >= _SMALLEST)
    scales = torch.where(used, largest, 0) / _INT8_MAX
    scales = torch.where(finite, scales, torch.nan)
    # Torch divides a number of Python's by multiplying it with a rounded reciprocal.
    most = torch.full_like(largest, _INT8_MAX)
    inverse = most / torch.where(used, largest, 1)
    codes = torch.where(used, groups * inverse, 0).round().to(torch.int8)
    return QuantizedRows(codes.flatten(1)[:, :num_in], scales.squeeze(-1))


@plain_torch()
def dequantize_rows(rows: QuantizedRows) -> Tensor:
    """The numbers that rows of codes stand for, (N, in) fp32."""
    each = rows.scales.repeat_interleave(ACTIVATION_GROUP, 1)[:, : rows.codes.shape[1]]
    return rows.codes.float() * each


@plain_torch()
def linear_int8(rows: QuantizedRows, weight: QuantizedMatrix, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias of quantized activations and weights; bias (out,) fp32.

    Returns (N, out) fp32, bit for bit what the native kernels compute. Raises OptionError where the
    two have different inputs.
    """
    if rows.codes.shape[1] != weight.codes.shape[1]:
        raise OptionError(
            f"rows of {rows.codes.shape[1]} activations do not fit a matrix of "
            f"{weight.codes.shape[1]} inputs"
        )
    is_int8 = weight.format == "int8"
    levels = code_levels(weight.format, weight.codes, torch.int8)
    shape = len(rows.codes), len(weight.codes)
    sums = torch.zeros(shape, dtype=torch.float32, device=rows.codes.device)
    for index, dots in enumerate(_dots(rows.codes, levels)):
        if not is_int8:
            dots = dots * weight.scales[:, index].float()
        sums = _fused(dots, rows.scales[:, index, None], sums)
    if is_int8:
        sums = sums * weight.scales
    return sums if bias is None else sums + bias


def _dots(codes: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Exact sums (N, out) fp32 of each group. Every partial sum is a whole number that fp32 holds,
    in whatever order torch adds."""
    for first in range(0, codes.shape[1], ACTIVATION_GROUP):
        inputs = slice(first, first + ACTIVATION_GROUP)
        yield codes[:, inputs].float() @ levels[:, inputs].float().T


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of fp32, rounded once.

    The product is exact in float64, and the sum there is rounded to odd: where it is not exact its
    last bit is 1, so that rounding it to fp32 sees on which side of it the true sum lies. Source:
    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008.
    """
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    kept = total - product  # of the addend; what was lost of both follows, exactly (Knuth)
    lost = (product - (total - kept)) + (addend - kept)
    even = total.view(torch.int64) & 1 == 0
    other = torch.nextafter(total, lost * torch.inf)
    return torch.where(even & lost.isfinite() & (lost != 0), other, total).float()
