"""Matrices in MXFP4: every number, and the same ones once they are packed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kept import machine
from kept.errors import WeightsError
from kept.ops.mxfp4 import LEVELS, Mxfp4Matrix


def every_number() -> tuple[Tensor, Tensor]:
    """A row for each exponent; each code twice in a block."""
    codes = torch.arange(16, dtype=torch.uint8)
    blocks = (codes | codes.flip(0) << 4).expand(256, 1, 16)
    return blocks.contiguous(), torch.arange(256, dtype=torch.uint8)[:, None]


def test_every_number() -> None:
    numbers = Mxfp4Matrix.of(*every_number()).numbers(torch.float64)
    inputs = [level for i in range(16) for level in (LEVELS[i], LEVELS[15 - i])]
    for exponent in range(255):
        expected = torch.tensor(inputs, dtype=torch.float64) * math.ldexp(1, exponent - 127)
        held = expected.abs() < 2.0**128  # by fp32, which the largest two scales lead beyond
        assert torch.equal(numbers[exponent][held], expected[held])
    assert numbers[255].isnan().all()


@pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler")
@pytest.mark.parametrize("gated", [False, True])
def test_packing_changes_no_number(gated: bool) -> None:
    codes = torch.randint(16, (70, 75), dtype=torch.uint8)
    matrix = Mxfp4Matrix(codes, torch.randint(90, 140, (70, 3), dtype=torch.uint8))
    packed = matrix.pack(gated=gated, bias=None)
    scales = matrix.scales.repeat_interleave(32, 1)[:, :75]
    expected = torch.tensor(LEVELS)[codes.int()] * torch.exp2(scales.float() - 127)
    assert torch.equal(packed.unpack(), expected)


def test_what_is_no_matrix() -> None:
    blocks, scales = every_number()
    for wrong in ((blocks[:, 0], scales), (blocks.char(), scales), (blocks, scales[:9])):
        with pytest.raises(WeightsError, match="no matrix in MXFP4"):
            Mxfp4Matrix.of(*wrong)
