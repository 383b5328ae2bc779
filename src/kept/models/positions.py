"""Tables of positions that are added to vectors of tokens, trained or computed."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kept import ops
from kept.models.layers import Embedding
from kept.ops.trace import is_traced

# Tables that are trained, or sines and cosines: those of Vaswani et al., 2017 (arXiv:1706.03762,
# section 3.5), or tensor2tensor's, whose last frequency is 1/10,000.
PositionKind = Literal["learned", "vaswani", "tensor2tensor"]
_BASE = 10_000


class LearnedPositions(Embedding):
    """A table of positions (rows, E) that is trained."""

    def add_to(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: (N, E), positions: (N,) -> (N, E)."""
        return x + ops.embedding(positions, self.weight)


class Sinusoids(nn.Module):
    """Rows (rows, E) of sines, then cosines. There is nothing in it to load."""

    def __init__(self, kind: PositionKind, num_rows: int, width: int) -> None:
        super().__init__()
        self._make = _vaswani if kind == "vaswani" else _tensor2tensor
        self._size = num_rows, width
        self._table: Tensor | None = None

    def add_to(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: (N, E), positions: (N,) -> (N, E)."""
        if self._table is None:
            with torch.inference_mode(False):
                self._table = self._make(*self._size)
        if not is_traced(x):
            self._table = self._table.to(x.device)
            return x + ops.embedding(positions, self._table).to(x.dtype)
        return x + ops.embedding(positions, self._table)


def _vaswani(num_rows: int, width: int) -> Tensor:
    rows, columns = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (num_rows, width))
    angles = rows[:, None] / _BASE ** (2 * (columns // 2) / width)
    return torch.cat((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=1).float()


def _tensor2tensor(num_rows: int, width: int) -> Tensor:
    # In fp32 all the way, as these models were trained.
    half = width // 2
    rows, columns = (torch.arange(n, dtype=torch.float32, device="cpu") for n in (num_rows, half))
    angles = rows[:, None] * torch.exp(columns * -(math.log(_BASE) / (half - 1)))
    odd = torch.zeros(num_rows, width % 2, dtype=torch.float32, device="cpu")
    return torch.cat((angles.sin(), angles.cos(), odd), dim=1)


def make_positions(kind: PositionKind, num_rows: int, width: int) -> LearnedPositions | Sinusoids:
    """A table (num_rows, width)."""
    if kind == "learned":
        return LearnedPositions(num_rows, width)
    return Sinusoids(kind, num_rows, width)
