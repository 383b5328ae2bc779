"""What each codec leaves of a number, by its definition and one head after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def sides(codec: str | tuple[str, str]) -> tuple[str, str]:
    """What keys and what values are stored as."""
    if isinstance(codec, tuple):
        return codec
    return ("int8", "int4") if codec == "k8v4" else (codec, codec)


def pair_bytes(codec: str | tuple[str, str], width: int) -> int:
    """Bytes that a key and a value of D numbers take."""
    return sum(head_bytes(side, width) for side in sides(codec))


def head_bytes(codec: str, width: int) -> int:
    """Bytes that one head's D numbers take."""
    if codec in FLOATS:
        return width * FLOATS[codec].itemsize
    if codec == "int8":
        return width + 2
    return math.ceil(width / 2) + 2 * math.ceil(width / 32)


def rounded(x: Tensor, codec: str, are_keys: bool = False) -> Tensor:
    """fp32 (..., D) that a cache with this codec gives back for x (..., D)."""
    if codec in FLOATS:
        return x.to(FLOATS[codec]).float()
    if codec == "int4" and are_keys:
        return turned(rounded(turned(x.float()), codec))
    rows = x.float().numpy().reshape(-1, x.shape[-1])
    group = rows.shape[1] if codec == "int8" else 32
    found = np.empty_like(rows)
    for row, out in zip(rows, found, strict=True):
        for begin in range(0, len(row), group):
            part = row[begin : begin + group]
            out[begin : begin + group] = _one_scale(part, codec)
    return torch.from_numpy(found).reshape(x.shape)


def _one_scale(x: np.ndarray, codec: str) -> np.ndarray:
    if not np.isfinite(x).all():
        return np.full_like(x, np.nan)
    scale = np.float32(scale_of(x, codec))
    if scale == 0:
        return np.zeros_like(x)
    low, high = (-127, 127) if codec == "int8" else (-8, 7)
    codes = np.clip(np.rint(x / scale), low, high)
    return codes.astype(np.float32) * scale


def scale_of(x: np.ndarray, codec: str) -> float:
    """The scale of finite fp32 numbers that share one."""
    if codec == "int8":
        return bfloat16_from_above(float(np.abs(x).max() / np.float32(127)))
    farthest = max(map(float, x), key=lambda number: (abs(number), number))
    return nearest_bfloat16(float(np.float32(farthest) / np.float32(-8)))


def turned(x: Tensor) -> Tensor:
    """Heads x (..., D) times Hadamard's matrices of the powers of two in D, largest first.

    Sums of neighbours first, then of those two apart, four apart and so on.
    """
    rows = x.numpy().copy()
    begin = 0
    for size in (1 << bit for bit in range(20, -1, -1)):
        if not x.shape[-1] & size:
            continue
        block = rows[..., begin : begin + size]
        for bit in range(size.bit_length() - 1):
            low = np.array([i for i in range(size) if not i >> bit & 1])
            high = low + (1 << bit)
            a, b = block[..., low], block[..., high]
            block[..., low], block[..., high] = a + b, a - b
        block *= np.float32(1 / math.sqrt(size))
        begin += size
    return torch.from_numpy(rows)


def bfloat16_from_above(x: float) -> float:
    """The least bfloat16 not below x >= 0: 8 bits of mantissa, and steps of 2^-133 at least."""
    _, exponent = math.frexp(x)
    grain = max(exponent - 8, -133)
    return math.ldexp(math.ceil(math.ldexp(x, -grain)), grain)


def nearest_bfloat16(x: float) -> float:
    """The nearest bfloat16, the even one of two; no number here is too large for one."""
    _, exponent = math.frexp(x)
    grain = max(exponent - 8, -133)
    return math.ldexp(round(math.ldexp(x, -grain)), grain)
