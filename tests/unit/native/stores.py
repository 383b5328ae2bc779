"""What a layer stores, made by hand: buffers, and which of their entries hold which token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kept.ops import KVCodec, KVDtype, Placement, find_kv_codec

from .driving import LayerBuffers

CODECS: tuple[KVDtype, ...] = (
    "float32", "float16", "bfloat16", "int8", "int4", "k8v4", ("float16", "int4"),
    ("int4", "bfloat16"),
)  # fmt: skip


def computes_in_floats(codec: KVCodec) -> bool:
    """Whether queries and weights stay fp32 over what it stores."""
    return not {"float32", "float16"}.isdisjoint(codec.pair)


def are_codes(codec: KVCodec, side: Literal["keys", "values"]) -> bool:
    """Whether these are whole numbers under a scale that kernels multiply as such."""
    stored = codec.pair[side == "values"]
    return stored in ("int8", "int4") and not computes_in_floats(codec)


def empty(
    codec: KVDtype, placement: Placement, num_slots: int, num_kv_heads: int, head_dim: int
) -> LayerBuffers:
    """Zeroed buffers (slots, G, capacity, width)."""
    size = num_slots, num_kv_heads, placement.block
    found = find_kv_codec(codec)
    keys, values = (
        tuple(torch.zeros(*size, p.width, dtype=p.dtype) for p in side.parts(head_dim))
        for side in (found.keys, found.values)
    )
    return LayerBuffers(found, keys, values, placement)


def put(layer: LayerBuffers, slot: int, tokens: Tensor, keys: Tensor, values: Tensor) -> None:
    """Store keys and values (T, G, D) of these tokens as the reference codes them."""
    for side, buffers, x in (
        (layer.codec.keys, layer.keys, keys),
        (layer.codec.values, layer.values, values),
    ):
        for buffer, part in zip(buffers, side.encode(x), strict=True):
            buffer[slot][:, tokens] = part.transpose(0, 1).to(buffer.dtype)


def stored(layer: LayerBuffers, slot: int, tokens: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Keys and values (T, G, D) of these tokens as attention reads them, in float64: keys are still
    rotated if they were."""
    found = []
    for side, buffers in ((layer.codec.keys, layer.keys), (layer.codec.values, layer.values)):
        x = side.read([x[slot][:, tokens] for x in buffers], head_dim).double()
        found.append(x.transpose(0, 1))
    return found[0], found[1]


def same_bits(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Equal bytes; of NaNs, which torch's casts do not agree on themselves, only that they are."""
    for a, b in zip(found, expected, strict=True):
        if a.dtype.is_floating_point:
            nan = b.isnan()
            if not torch.equal(a.isnan(), nan):
                return False
            a, b = (x.masked_fill(nan, 0).view(torch.uint8) for x in (a, b))
        if not torch.equal(a, b):
            return False
    return True
