"""Norms in plain torch; see `ops.reference`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kept.ops.spec import HeadSpec


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, in fp32 inside; see `ops` for its roundings."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if weight.dtype == torch.float32:
        return (wide * weight).to(x.dtype)
    return weight * wide.to(x.dtype)


def norm_parts(x: Tensor, weights: Sequence[Tensor], eps: float) -> Tensor:
    """`rms_norm` of parts of each row, one behind the other; see `ops`."""
    widths = [len(weight) for weight in weights]
    parts = x.split([*widths, x.shape[-1] - sum(widths)], dim=-1)
    normed = [rms_norm(part, w, eps) for part, w in zip(parts, weights, strict=False)]
    return torch.cat((*normed, parts[-1]), dim=-1)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / std * weight + bias over the last dimension. Source: Ba et al. 2016."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def norm_heads(x: Tensor, weight: Tensor, heads: HeadSpec) -> Tensor:
    """x: (N, H, D). weight: (D,), or (H, D) where each head has its own."""
    if weight.dim() == 1 and not heads.centred:
        return rms_norm(x, weight, heads.norm_eps)
    plain = torch.ones_like(weight[0] if weight.dim() == 2 else weight)
    norm = layer_norm(x, plain, None, heads.norm_eps) if heads.centred else None
    return (rms_norm(x, plain, heads.norm_eps) if norm is None else norm) * weight
