"""Layers that store no values: a token's value is the first numbers of its key."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import KVCodec
from kept.ops.hadamard import block_sizes


def why_not_in_keys(shapes: Sequence[KVShape], codec: KVCodec) -> str | None:
    """Why the values of a layer cannot lie in its keys where its shape says so; None: they can."""
    for index, shape in enumerate(shapes):
        if not shape.values_in_keys:
            continue
        if shape.cross or shape.value_width > shape.head_dim:
            return (
                f"layer {index} is {shape}; values that lie in keys are no longer than these, and "
                "of no cross layer: leave values_in_keys out"
            )
        if codec.keys.name != codec.values.name:
            return (
                f"keys and values cannot be stored as {codec.name!r}: layer {index} stores both as "
                f"one, {shape.value_width} values within {shape.head_dim} keys; name one codec, "
                f"such as {codec.keys.name!r}"
            )
        if codec.keys.name == "int4" and not _turn_apart(shape.value_width, shape.head_dim):
            return (
                f"keys and values cannot be stored as 'int4': it turns the {shape.head_dim} "
                f"numbers of a key in blocks of {block_sizes(shape.head_dim)}, and the values of "
                f"layer {index}, the first {shape.value_width} of them, end within one; use 'int8'"
            )
    return None


def _turn_apart(width: int, head_dim: int) -> bool:
    own = block_sizes(width)
    return block_sizes(head_dim)[: len(own)] == own


def check_first_numbers(k: Tensor, v: Tensor) -> None:
    """Raise CacheError unless values (N, G, .) are the first numbers of keys (N, G, D)."""
    first = k[..., : v.shape[-1]]
    if v.data_ptr() == first.data_ptr() and v.stride() == first.stride():
        return
    if not torch.equal(v.nan_to_num(), first.nan_to_num()):
        raise CacheError(
            f"this layer stores no values beside its keys, whose first {v.shape[-1]} numbers they "
            "are; pass keys that begin with them, or make the cache without values_in_keys"
        )
