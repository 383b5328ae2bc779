"""An orthonormal rotation of heads that spreads a few large numbers over many.

Hadamard's matrix of size n = 2^k has entries of +-1, in orthogonal rows; over sqrt(n) it is its own
inverse. A head of D numbers is cut into blocks, each the largest power of two that is left (80 is
64 and 16), and each block is turned alone:

    stage h = 1, 2, 4, ..., n / 2      x[i], x[i + h]  <-  x[i] + x[i + h], x[i] - x[i + h]
    and then                           x[i]  <-  x[i] / sqrt(n)

The order of the sums is part of the definition: the kernels follow it to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def block_sizes(head_dim: int) -> list[int]:
    """The powers of two that D is the sum of, largest first."""
    return [1 << bit for bit in reversed(range(head_dim.bit_length())) if head_dim >> bit & 1]


def rotate_heads(x: Tensor) -> Tensor:
    """x (..., D) turned block by block, in its own dtype; turning it again gives it back."""
    parts = (_turned(block) for block in x.split(block_sizes(x.shape[-1]), dim=-1))
    return torch.cat(list(parts), dim=-1)


def _turned(x: Tensor) -> Tensor:
    size, step = x.shape[-1], 1
    if size == 1:
        return x
    while step < size:
        low, high = x.unflatten(-1, (-1, 2, step)).unbind(-2)
        x = torch.stack((low + high, low - high), dim=-2).flatten(-3)
        step *= 2
    return x * float(size**-0.5)
