"""Rows that hold several streams side by side, in plain torch; see `ops`.

Source: Baykal et al. 2023, "Alternating Updates for Efficient Transformers", as Gemma 3n has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kept.ops.reference import activate

MAX_STREAMS = 8  # that the kernels take


def columns(x: Tensor, begin: int, width: int, weight: Tensor | None = None) -> Tensor:
    """Some columns, times a weight."""
    found = x[:, begin : begin + width]
    return found if weight is None else found * weight.to(x.dtype)


def spread(x: Tensor, sides: Sequence[Tensor], least: float) -> Tensor:
    """x and what is made of it, matched to it."""
    return torch.cat([x, *(_matched(side, x, least) for side in sides)], dim=1)


def joined(x: Tensor, sides: Sequence[Tensor], least: float) -> Tensor:
    """The mean of x and what stands beside it, matched to it."""
    total = x
    for side in sides:
        total = total + _matched(side, x, least)
    return total / (len(sides) + 1)


def _matched(x: Tensor, like: Tensor, least: float) -> Tensor:
    target = like.float().square().mean(-1, keepdim=True).sqrt()
    found = x.float().square().mean(-1, keepdim=True).clamp(min=least).sqrt()
    return (x.float() * target / found).to(x.dtype)


def score(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T in fp32."""
    return F.linear(x.float(), weight.float())


def predict(x: Tensor, routes: Tensor, weight: Tensor) -> Tensor:
    """Streams, and sums of them by the routes."""
    count = routes.shape[1]
    by = F.linear(torch.tanh(routes), weight.float()).unflatten(1, (count, count))
    streams = x.float().unflatten(1, (count, -1))
    out: Tensor = (streams + by @ streams).flatten(1).to(x.dtype)
    return out


def correct(x: Tensor, routes: Tensor, weight: Tensor, active: Tensor, index: int) -> Tensor:
    """Streams, and what is new in one of them, by the routes."""
    by = F.linear(torch.tanh(routes), weight.float()) + 1.0
    streams = x.float().unflatten(1, (routes.shape[1], -1))
    news = active.float() - streams[:, index]
    out: Tensor = (streams + by[..., None] * news[:, None]).flatten(1).to(x.dtype)
    return out


def add_behind(x: Tensor, y: Tensor) -> Tensor:
    """y, added to every stream but the first."""
    first, behind = x[:, : y.shape[1]], x[:, y.shape[1] :]
    return torch.cat([first, behind + y.repeat(1, behind.shape[1] // y.shape[1])], dim=1)


def gated_sparsely(gates: Tensor, ups: Tensor, deviations: float, activation: str) -> Tensor:
    """Gates as far as they exceed what few do, and what they gate."""
    wide = gates.float()
    mean, spread = wide.mean(-1, keepdim=True), wide.std(-1, keepdim=True, unbiased=False)
    above = F.relu(wide - (mean + spread * deviations)).to(gates.dtype)
    return activate(above, activation) * ups
