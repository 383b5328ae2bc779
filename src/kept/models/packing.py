"""In which format a model's matrices are packed for the native kernels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kept.models.native import PackWeight
from kept.ops import PackedMatrix, pack_matrix


def float_packer(dtype: torch.dtype) -> PackWeight:
    """Packs weights as they are, in fp32 or bf16."""
    return partial(_pack_floats, "bf16" if dtype == torch.bfloat16 else "fp32")


def _pack_floats(format: str, weight: Tensor, gated: bool, bias: Tensor | None) -> PackedMatrix:
    return pack_matrix(weight, format, gated=gated, bias=bias)
