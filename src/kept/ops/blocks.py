"""Matrices in blocks of 32 weights, as GGUF files store them: the specification of the formats.

    q8_0   34 bytes: the scale, and 32 codes of int8
    q4_0   18 bytes: the scale, and 16 bytes, of which byte i holds the codes of weights i (its low
           half) and 16 + i

Scales are fp16, and a row's blocks lie one behind the other; quantize.py says what numbers codes
and scales stand for. fp32 holds every one of them. Source: ggml (ggml-common.h, block_q8_0 and
block_q4_0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.errors import WeightsError
from kept.ops.mxfp4 import Mxfp4Matrix
from kept.ops.packed import PackedMatrix, pack_blocks
from kept.ops.plain import plain_torch
from kept.ops.quantize import BlockFormat, QuantizedMatrix, dequantize
from kept.ops.stored_rows import StoredRows, pack_stored

BLOCK = 32  # inputs that share a scale
BLOCK_BYTES: Mapping[BlockFormat, int] = {"q8_0": 34, "q4_0": 18}
_SCALE_BYTES = 2


@dataclass(frozen=True, slots=True, eq=False)
class BlockMatrix:
    """A matrix (out, in) of blocks, which are read as they are asked for.

    pieces: gives the first row of each piece, and the blocks of its rows, (rows, row bytes) uint8,
    which may be overwritten once the next is asked for. parts: where the rows lie in files one
    behind the other, if they do; they are then packed from there.
    """

    format: BlockFormat
    num_out: int
    num_in: int
    pieces: Callable[[], Iterable[tuple[int, Tensor]]]
    parts: tuple[StoredRows, ...] = ()

    def joined(self, below: BlockMatrix) -> BlockMatrix:
        """This matrix with another's rows below it. Raises WeightsError for one of other blocks."""
        if (self.format, self.num_in) != (below.format, below.num_in):
            raise WeightsError(
                f"rows of {self.num_in} inputs in {self.format} and of {below.num_in} in "
                f"{below.format} are no one matrix; convert the checkpoint again"
            )

        def pieces() -> Iterable[tuple[int, Tensor]]:
            yield from self.pieces()
            for first, rows in below.pieces():
                yield self.num_out + first, rows

        parts = (*self.parts, *below.parts) if self.parts and below.parts else ()
        return BlockMatrix(self.format, self.num_out + below.num_out, self.num_in, pieces, parts)

    @plain_torch()
    def numbers(self, dtype: torch.dtype) -> Tensor:
        """(out, in) as another dtype, exactly in float32."""
        out = torch.empty(self.num_out, self.num_in, dtype=dtype, device="cpu")
        for first, rows in self.pieces():
            out[first : first + len(rows)] = dequantize(decode_blocks(self.format, rows)).to(dtype)
        return out

    def pack(self, *, gated: bool, bias: Tensor | None) -> PackedMatrix:
        """As the native kernels read it, bit for bit the same numbers. Raises as `pack_blocks`."""
        size = self.num_out, self.num_in
        if self.parts:
            return pack_stored(self.format, size, self.parts, gated=gated, bias=bias)
        return pack_blocks(self.format, size, self.pieces(), gated=gated, bias=bias)


CodedMatrix = Mxfp4Matrix | BlockMatrix  # what the kernels read as it is stored


@plain_torch()
def decode_blocks(format: BlockFormat, rows: Tensor) -> QuantizedMatrix:
    """Codes and scales of rows of blocks (rows, row bytes) uint8."""
    blocks = rows.view(len(rows), -1, BLOCK_BYTES[format])
    scales = blocks[..., :_SCALE_BYTES].contiguous().view(torch.float16).squeeze(-1)
    stored = blocks[..., _SCALE_BYTES:]
    if format == "q8_0":
        return QuantizedMatrix(format, stored.contiguous().view(torch.int8).flatten(1), scales)
    codes = torch.cat((stored & 15, stored >> 4), dim=-1)
    return QuantizedMatrix(format, codes.flatten(1), scales)
