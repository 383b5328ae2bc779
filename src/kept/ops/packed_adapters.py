"""Adapters as the native kernels read them; native/adapters.h draws the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.ops.adapters import Adapters, LowRank
from kept.ops.packed import GROUP, PANEL, PackedMatrix

if TYPE_CHECKING:
    from kept import _native

STRIP = 16  # outputs


def add_adapters(native: _native.Program, adapters: Adapters, weight: PackedMatrix) -> int:
    """Give a program the adapters of the layer whose matrix this is; returns their name there."""
    from kept import _native

    places = _places(weight)
    packed = [_pack(parts, weight.num_in, places) for parts in adapters.each]
    return _native.add_adapters(native, packed)


def _pack(parts: tuple[LowRank, ...], num_in: int, places: Tensor) -> _native.LowRank:
    from kept import _native

    if not parts:
        return _native.low_rank()
    stored = [x for part in parts for x in (part.down, part.up)]
    is_bf16 = all(x.dtype == torch.bfloat16 for x in stored)
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    ranks = [len(part.down) for part in parts]
    padded_in = -(-num_in // GROUP) * GROUP
    down = torch.zeros(sum(ranks), padded_in, dtype=dtype, device="cpu")
    down[:, :num_in] = torch.cat([part.down.to(dtype) for part in parts])
    scales = torch.tensor(
        [part.scale for part, rank in zip(parts, ranks, strict=True) for _ in range(rank)],
        dtype=torch.float32,
        device="cpu",
    )
    strips, up = _strips(parts, ranks, places, dtype)
    return _native.low_rank(sum(ranks), padded_in, down, up, scales, strips)


def _places(weight: PackedMatrix) -> Tensor:
    """Which output lies at each place of the panels, -1: padding."""
    width = weight.num_out // 2 if weight.gated else weight.num_out
    step = STRIP if weight.gated else PANEL
    places = torch.full((-(-width // step) * step,), -1, dtype=torch.int64, device="cpu")
    places[:width] = torch.arange(width, dtype=torch.int64, device="cpu")
    if not weight.gated:
        return places
    halves = torch.stack((places, torch.where(places < 0, -1, places + width)))
    return halves.view(2, -1, STRIP).transpose(0, 1).reshape(-1)


def _strips(
    parts: tuple[LowRank, ...], ranks: list[int], places: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Ranks and the first number of each strip, (strips, 3) int64, and the numbers."""
    count = len(places) // STRIP
    whole = torch.zeros(sum(ranks), len(places), dtype=dtype, device="cpu")
    first = torch.full((count,), sum(ranks), dtype=torch.int64, device="cpu")
    last = torch.zeros(count, dtype=torch.int64, device="cpu")
    begin = 0
    for part, rank in zip(parts, ranks, strict=True):
        within = (places >= part.start) & (places < part.stop)
        rows = part.up[places[within] - part.start].to(dtype)
        whole[begin : begin + rank, within] = rows.T
        reached = within.view(-1, STRIP).any(1)
        first[reached] = first[reached].clamp(max=begin)
        last[reached] = begin + rank
        begin += rank
    first = torch.minimum(first, last)
    numbers = torch.arange(begin, dtype=torch.int64, device="cpu")
    kept = (numbers >= first[:, None]) & (numbers < last[:, None])  # (strips, R)
    up = whole.view(begin, count, STRIP).transpose(0, 1)[kept].reshape(-1)
    sizes = (last - first) * STRIP
    return torch.stack((first, last, sizes.cumsum(0) - sizes), dim=1).contiguous(), up
