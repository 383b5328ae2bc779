"""Packed weights are the weights: bit for bit, whatever the shape."""

import pytest
import torch
from torch import Tensor

from kept import _native
from kept.ops import PackedMatrix, pack_grouped, pack_int4, pack_int8, pack_matrix
from kept.ops.quantize import (
    BLOCK_FORMATS,
    INT4_LEVELS,
    INT4_ZERO,
    BlockFormat,
    QuantizedMatrix,
    dequantize,
)

# (num_out, num_in), whole panels and what is left of them.
SHAPES = ((1, 1), (2, 31), (31, 33), (32, 32), (33, 1), (40, 65), (97, 40), (130, 31))
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
gates = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


def sized(shape: tuple[int, int], gated: bool) -> tuple[int, int]:
    """A gated matrix has two halves of the given height."""
    return (2 * shape[0], shape[1]) if gated else shape


def any_bits(dtype: torch.dtype, shape: tuple[int, int]) -> Tensor:
    """Numbers of every kind: subnormal, infinite, NaN."""
    whole = torch.int32 if dtype == torch.float32 else torch.int16
    info = torch.iinfo(whole)
    return torch.randint(info.min, info.max, shape, dtype=whole).view(dtype)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.view(torch.int32), expected.view(torch.int32))


def codes_of(packed: PackedMatrix) -> Tensor:
    kind = torch.uint8 if packed.format in ("int4", "q4_0") else torch.int8
    out = torch.empty(packed.shape, dtype=kind)
    _native.unpack_codes(packed.handle, out)
    return out.to(torch.int8)


@shapes
@gates
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_floats_come_back_bit_for_bit(
    shape: tuple[int, int], gated: bool, dtype: torch.dtype
) -> None:
    weight = any_bits(dtype, sized(shape, gated))
    if dtype == torch.float16:
        weight = weight.nan_to_num(1.5)  # the cast to fp32 has a choice of NaNs
    for format in ("fp32", "bf16") if dtype == torch.bfloat16 else ("fp32",):
        packed = pack_matrix(weight, format, gated=gated)
        assert packed.shape == weight.shape
        assert same_bits(packed.unpack(), weight.float())


@shapes
@gates
def test_bf16_rounds_to_nearest_even(shape: tuple[int, int], gated: bool) -> None:
    weight = any_bits(torch.float32, sized(shape, gated))
    found = pack_matrix(weight, "bf16", gated=gated).unpack()
    nan = weight.isnan()
    assert torch.equal(found.isnan(), nan)
    expected = weight.masked_fill(nan, 0).bfloat16().float()
    assert same_bits(found.masked_fill(nan, 0), expected)


@shapes
@gates
def test_int8_codes_and_scales(shape: tuple[int, int], gated: bool) -> None:
    height, width = sized(shape, gated)
    codes = torch.randint(-128, 128, (height, width), dtype=torch.int8)
    scales = torch.rand(height) + 0.5
    packed = pack_int8(codes, scales, gated=gated)
    assert torch.equal(codes_of(packed), codes)
    assert same_bits(packed.unpack(), codes.float() * scales[:, None])


@shapes
@gates
def test_int4_codes_and_scales(shape: tuple[int, int], gated: bool) -> None:
    height, width = sized(shape, gated)
    codes = torch.randint(0, 16, (height, width), dtype=torch.uint8)
    scales = (torch.rand(height, -(-width // 32)) + 0.5).bfloat16()
    packed = pack_int4(codes, scales, gated=gated)
    assert torch.equal(codes_of(packed), codes.to(torch.int8))
    back = torch.empty_like(scales)
    _native.unpack_group_scales(packed.handle, back)
    assert torch.equal(back, scales)
    wide = scales.float().repeat_interleave(32, dim=1)[:, :width]
    assert same_bits(packed.unpack(), torch.tensor(INT4_LEVELS)[codes.int()].float() * wide)


@shapes
@gates
@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_codes_and_scales_of_blocks(
    shape: tuple[int, int], gated: bool, format: BlockFormat
) -> None:
    height, width = sized(shape, gated)
    wide = format == "q8_0"
    codes = torch.randint(*((-127, 128) if wide else (0, 16)), (height, width))
    codes = codes.to(torch.int8 if wide else torch.uint8)
    scales = any_bits(torch.float16, (height, -(-width // 32))).nan_to_num(1.5, 2.0, -2.0)
    packed = pack_grouped(format, codes, scales, gated=gated)
    assert torch.equal(codes_of(packed), codes.to(torch.int8))
    back = torch.empty_like(scales)
    _native.unpack_group_scales(packed.handle, back)
    assert torch.equal(back.view(torch.int16), scales.view(torch.int16))
    expected = dequantize(QuantizedMatrix(format, codes, scales))
    assert torch.equal(packed.unpack(), expected)


@shapes
@gates
def test_padding_is_zero(shape: tuple[int, int], gated: bool) -> None:
    """What lies beyond the matrix adds nothing to any sum."""
    height, width = sized(shape, gated)
    weight, bias = torch.ones(height, width), torch.ones(height)
    for format in ("fp32", "bf16"):
        packed = pack_matrix(weight, format, gated=gated, bias=bias)
        numbers = packed.data.view(torch.float32 if format == "fp32" else torch.bfloat16)
        assert numbers.float().sum() == height * width
        assert packed.bias is not None
        assert packed.bias.sum() == height
    coded = pack_int8(torch.ones(height, width, dtype=torch.int8), torch.ones(height), gated=gated)
    assert coded.data.view(torch.int8).sum() == height * width
    assert coded.channel_scales is not None
    assert coded.channel_scales.sum() == height
    groups = -(-width // 32)
    level = torch.full((height, width), INT4_ZERO + 1, dtype=torch.uint8)
    packed = pack_int4(level, torch.ones(height, groups, dtype=torch.bfloat16), gated=gated)
    nibbles = torch.stack((packed.data & 15, packed.data >> 4)).int() - INT4_ZERO
    assert nibbles.sum() == height * width
    assert packed.group_scales is not None
    assert packed.group_scales.float().sum() == height * groups
