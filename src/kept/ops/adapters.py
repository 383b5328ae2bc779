"""Low-rank adapters of linear layers in plain torch: what rows take on beside the layer's own.

Source: Hu et al. 2021, "LoRA", as peft stores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class LowRank:
    """scale * (x @ down.T) @ up.T, for some of a linear layer's outputs.

    start, stop: which outputs, half-open. down: (R, in), up: (stop - start, R), both fp32 or both
    bf16; they are multiplied in fp32.
    """

    start: int
    stop: int
    down: Tensor
    up: Tensor
    scale: float


@dataclass(eq=False, slots=True)
class AdaptedRows:
    """Which rows of the pass that runs go through which adapter: pairs of its number and the rows,
    (n,) int64. All layers of a model look here; a pass sets it before its first."""

    groups: Sequence[tuple[int, Tensor]] = ()

    def set(self, adapters: Sequence[int], starts: Sequence[int], device: torch.device) -> None:
        """Take the adapters of a batch (B,), -1: none, and where its sequences begin, (B + 1,)."""
        rows: dict[int, list[int]] = {}
        for number, begin, end in zip(adapters, starts, starts[1:], strict=False):
            if number >= 0:
                rows.setdefault(number, []).extend(range(begin, end))
        self.groups = [
            (number, torch.tensor(rows[number], dtype=torch.int64, device=device))
            for number in sorted(rows)
        ]


@dataclass(frozen=True, eq=False, slots=True)
class Adapters:
    """All adapters of one linear layer, by their numbers: the parts of each, which reach different
    outputs, in their order; none where an adapter leaves the layer alone."""

    each: tuple[tuple[LowRank, ...], ...]
    rows: AdaptedRows = field(default_factory=AdaptedRows)


def adapt(x: Tensor, y: Tensor, adapters: Adapters) -> Tensor:
    """What a layer made of rows, y (N, out) of x (N, in), and what adapted rows take on; the sum is
    taken in fp32."""
    for number, rows in adapters.rows.groups:
        parts = adapters.each[number]
        if not parts:
            continue
        own = x[rows].float()
        added = torch.zeros(len(rows), y.shape[1], dtype=torch.float32, device=y.device)
        for part in parts:
            narrow = own @ part.down.to(own).T * part.scale
            added[:, part.start : part.stop] = narrow @ part.up.to(own).T
        y = y.index_copy(0, rows, (y[rows].float() + added).to(y.dtype))
    return y
