"""What becomes of gradients where a pass under autograd stores to a kept cache.

What is stored carries no graph. Gradients reach the keys and values of the pass itself, as they do
with transformers' own cache; where they would have to go further, or through codes, `backward`
raises: a gradient that is silently missing looks like a layer that does not learn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kept.errors import CacheError
from kept.ops import Codec

EARLIER = (
    "no gradient flows to the keys and values of earlier passes, which a kept cache stores without "
    "their graph; run those under torch.no_grad(), or train with transformers' DynamicCache"
)


def grows_a_graph(*new: Tensor) -> bool:
    """Whether autograd follows what becomes of these keys or values."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in new)


def followed(dense: Tensor, new: Tensor, codec: Codec, *, earlier: bool) -> Tensor:
    """What a layer hands out, (B, G, S, D), of which the last tokens are `new` (B, G, T, D), with
    the way back to `new`.

    earlier: whether tokens before them were stored under autograd too. No numbers change.
    """
    if earlier:
        return refused(dense, EARLIER, new)
    if codec.is_coded:
        why = (
            f"no gradient flows through keys and values that are stored as {codec.name}, which "
            "rounds them; make the cache with a kv_dtype of floats, or leave it out"
        )
        return refused(dense, why, new)
    rounded, past = new.to(codec.dtype).to(new.dtype), dense.shape[2] - new.shape[2]
    return torch.cat((dense[:, :, :past], rounded), dim=2) if past else rounded


def refused(x: Tensor, why: str, new: Tensor | None = None) -> Tensor:
    """x, whose gradient raises CacheError of `why`; new: what the graph goes on from."""
    root = new
    if root is None:
        root = torch.zeros((), dtype=torch.float32, device=x.device, requires_grad=True)
    found: Tensor = _Refused.apply(x, root, why)  # type: ignore[no-untyped-call]  # torch's own
    return found


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, root: Tensor, why: str) -> Tensor:
        ctx.why = why
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise CacheError(ctx.why)
