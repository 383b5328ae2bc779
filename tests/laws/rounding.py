"""What each codec leaves of a number, by its definition and one head after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LIMITS = {"int8": 127, "int4": 7}


def head_bytes(codec: str, width: int) -> int:
    """Bytes that one head's D numbers take."""
    if codec in FLOATS:
        return width * FLOATS[codec].itemsize
    if codec == "int8":
        return width + 2
    return math.ceil(width / 2) + 2 * math.ceil(width / 32)


def rounded(x: Tensor, codec: str) -> Tensor:
    """fp32 (..., D) that a cache with this codec gives back for x (..., D)."""
    if codec in FLOATS:
        return x.to(FLOATS[codec]).float()
    rows = x.float().numpy().reshape(-1, x.shape[-1])
    group = rows.shape[1] if codec == "int8" else 32
    found = np.empty_like(rows)
    for row, out in zip(rows, found, strict=True):
        for begin in range(0, len(row), group):
            part = row[begin : begin + group]
            out[begin : begin + group] = _one_scale(part, LIMITS[codec])
    return torch.from_numpy(found).reshape(x.shape)


def _one_scale(x: np.ndarray, limit: int) -> np.ndarray:
    amax = np.abs(x).max()
    if not np.isfinite(amax):
        return np.full_like(x, np.nan)
    scale = np.float32(bfloat16_from_above(float(np.float32(amax) / np.float32(limit))))
    if scale == 0:
        return np.zeros_like(x)
    codes = np.clip(np.rint(x / scale), -limit, limit)
    return codes.astype(np.float32) * scale


def bfloat16_from_above(x: float) -> float:
    """The least bfloat16 not below x >= 0: 8 bits of mantissa, and steps of 2^-133 at least."""
    _, exponent = math.frexp(x)
    grain = max(exponent - 8, -133)
    return math.ldexp(math.ceil(math.ldexp(x, -grain)), grain)
