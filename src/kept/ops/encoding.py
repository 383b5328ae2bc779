"""Heads that come from torch, to codes: on the kernels, with the bits of `Codec.encode`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kept.ops.backend import MAX_HEAD_DIM, backend, isa, use_threads
from kept.ops.codecs import Codec, Int4Codec

_ALONE = 1 << 15  # numbers that one thread encodes, and that are too few to ask how many there are
_EXACT_IN_FP32 = (torch.float32, torch.bfloat16, torch.float16)


def encode_heads(codec: Codec, x: Tensor) -> Sequence[Tensor]:
    """`codec.encode(x)` for x (..., D), in one pass where the kernels run on x; the same bits."""
    width = x.shape[-1]
    runs = x.is_cpu and x.dtype in _EXACT_IN_FP32 and 1 <= width <= MAX_HEAD_DIM
    if not codec.is_coded or not runs or backend() != "native":
        return codec.encode(x)
    from kept import _native

    if x.numel() > _ALONE:
        use_threads()
    heads = x.detach().float().contiguous()
    codes, scales = (
        torch.empty(*x.shape[:-1], part.width, dtype=part.dtype, device="cpu")
        for part in codec.parts(width)
    )
    _native.encode_heads(
        isa(),
        _native.Codec[codec.name],
        isinstance(codec, Int4Codec) and codec.rotated,
        heads,
        heads.numel() // width,
        width,
        codes,
        scales,
    )
    return codes, scales
