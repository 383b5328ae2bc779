"""Matrices in MXFP4, as gpt-oss stores its experts: the specification of the format.

    weight[o, i] = LEVELS[codes[o, i]] * 2 ** (scales[o, i // 32] - 127)

Codes are numbers of four bits (e2m1), two of them a byte with the first in its low half; a scale is
an exponent of eight bits (e8m0), of which 255 stands for NaN. bf16 holds every such number that is
not below its range. Source: OCP Microscaling Formats (MX) Specification, version 1.0, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kept.errors import WeightsError
from kept.ops.packed import PackedMatrix, pack_mxfp4
from kept.ops.plain import plain_torch

BLOCK = 32  # inputs that share a scale
LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True, slots=True, eq=False)
class Mxfp4Matrix:
    """A matrix (out, in). codes: (out, in) uint8, one each. scales: (out, in / 32) uint8."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, blocks: Tensor, scales: Tensor) -> Mxfp4Matrix:
        """From what files hold: blocks (out, in / 32, 16) and scales (out, in / 32), uint8.

        Raises WeightsError for tensors that are not these.
        """
        fits = blocks.dtype == scales.dtype == torch.uint8 and blocks.shape[:-1] == scales.shape
        if not fits or blocks.dim() != 3 or blocks.shape[-1] != BLOCK // 2:
            raise WeightsError(
                f"blocks {tuple(blocks.shape)} of {blocks.dtype} with scales "
                f"{tuple(scales.shape)} of {scales.dtype} are no matrix in MXFP4; it takes uint8, "
                "(out, groups, 16) and (out, groups): download the checkpoint again"
            )
        codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(1)
        return cls(codes, scales)

    def joined(self, below: Mxfp4Matrix) -> Mxfp4Matrix:
        """This matrix with another's rows below it."""
        return Mxfp4Matrix(
            torch.cat((self.codes, below.codes)), torch.cat((self.scales, below.scales))
        )

    @plain_torch()
    def numbers(self, dtype: torch.dtype) -> Tensor:
        """(out, in) as another dtype."""
        levels = torch.tensor(LEVELS, dtype=torch.float32, device=self.codes.device)
        each = self.factors().float().repeat_interleave(BLOCK, 1)
        return (levels[self.codes.int()] * each).to(dtype)

    def factors(self) -> Tensor:
        """(out, in / 32) bf16, exactly what scales multiply with."""
        exponents = self.scales.to(torch.int16)
        # The bits of a power of two are its exponent's, and of 2 ** -127, which has no such, half
        # of the smallest that has.
        bits = torch.where(exponents == 0, 1 << 6, exponents << 7)
        bits = torch.where(exponents == 255, 0x7FC0, bits)
        return bits.to(torch.int16).view(torch.bfloat16)

    def pack(self, *, gated: bool, bias: Tensor | None) -> PackedMatrix:
        """As the native kernels read it, bit for bit the same numbers."""
        return pack_mxfp4(self.codes, self.factors(), gated=gated, bias=bias)
