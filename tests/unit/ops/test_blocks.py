"""Matrices in blocks of GGUF files: what their authors read of them, and the same once packed."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from kept import machine
from kept.errors import WeightsError
from kept.ops.blocks import BLOCK_BYTES, BlockMatrix, decode_blocks
from kept.ops.quantize import BLOCK_FORMATS, BlockFormat, dequantize

formats = pytest.mark.parametrize("format", BLOCK_FORMATS)
needs_native = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")


def random_rows(format: BlockFormat, num_out: int, num_in: int) -> Tensor:
    """Blocks with every code but -128 of eight bits, and scales of every size."""
    size = BLOCK_BYTES[format]
    blocks = torch.randint(256, (num_out, num_in // 32, size), dtype=torch.uint8)
    scales = torch.randint(-(1 << 15), 1 << 15, blocks.shape[:2]).to(torch.int16)
    finite = torch.where((scales & 0x7C00) == 0x7C00, scales & 0x3FF, scales)
    blocks[..., :2] = finite.to(torch.int16)[..., None].view(torch.uint8)
    if format == "q8_0":
        codes = blocks[..., 2:]
        codes[codes == 128] = 127
    return blocks.flatten(1)


def matrix_of(format: BlockFormat, rows: Tensor, num_in: int, step: int = 7) -> BlockMatrix:
    """In pieces of a few rows, the last of them first, that share their memory."""
    held = torch.empty(step * rows.shape[1], dtype=torch.uint8)

    def pieces() -> Iterator[tuple[int, Tensor]]:
        for first in reversed(range(0, len(rows), step)):
            part = rows[first : first + step]
            piece = held[: part.numel()].view(part.shape)
            yield first, piece.copy_(part)

    return BlockMatrix(format, len(rows), num_in, pieces)


@formats
def test_numbers_are_what_the_package_reads(format: BlockFormat) -> None:
    rows = random_rows(format, 9, 96)
    kind = gguf.GGMLQuantizationType[format.upper()]
    expected = torch.from_numpy(np.asarray(gguf.dequantize(rows.numpy(), kind)))
    assert torch.equal(dequantize(decode_blocks(format, rows)), expected)
    matrix = matrix_of(format, rows, 96, step=4)
    assert torch.equal(matrix.numbers(torch.float32), expected)
    assert torch.equal(matrix.numbers(torch.bfloat16), expected.bfloat16())
    both = matrix.joined(matrix_of(format, rows[:5], 96)).numbers(torch.float32)
    assert torch.equal(both, torch.cat((expected, expected[:5])))
    with pytest.raises(WeightsError, match="are no one matrix"):
        matrix.joined(matrix_of(format, random_rows(format, 2, 64), 64))


@needs_native
@formats
@pytest.mark.parametrize("gated", [False, True])
def test_packing_changes_no_number(format: BlockFormat, gated: bool) -> None:
    for num_out, num_in in ((2, 32), (34, 64), (130, 352)):
        rows, bias = random_rows(format, num_out, num_in), torch.randn(num_out)
        packed = matrix_of(format, rows, num_in).pack(gated=gated, bias=bias)
        assert packed.format == format
        assert torch.equal(packed.unpack(), dequantize(decode_blocks(format, rows)))
        # Behind the outputs there is nothing.
        assert packed.group_scales is not None
        assert int((packed.group_scales.flatten(1).abs() > 0).sum()) <= num_out * num_in // 32
        assert packed.data.numel() >= num_out * num_in * (1 if format == "q8_0" else 0.5)


@needs_native
@formats
def test_rows_that_no_panel_holds(format: BlockFormat) -> None:
    for row, at, bits in ((40, 1, 0x7C), (3, 1, 0xFE), (61, 20, 128)):
        rows = random_rows(format, 70, 64)
        rows[row, at] = bits
        if at == 20 and format == "q4_0":
            matrix_of(format, rows, 64).pack(gated=False, bias=None)
            continue
        with pytest.raises(WeightsError, match=f"row {row} of a matrix .* quantize='int8'"):
            matrix_of(format, rows, 64, step=50).pack(gated=False, bias=None)
