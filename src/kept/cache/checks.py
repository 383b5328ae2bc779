"""What a step asks of a cache, refused before anything is stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kept.cache.shape import KVShape
from kept.errors import CacheError


def check_slots(slots: Sequence[int], num_slots: int) -> None:
    """Raise CacheError unless a step can store to these slots of a cache of `num_slots`."""
    if any(not 0 <= slot < num_slots for slot in slots) or len(set(slots)) != len(slots):
        raise CacheError(
            f"slots {list(slots)} are not distinct slots of this cache of {num_slots}; make it "
            "with more (num_slots), or select() more"
        )


def check_numbers(x: object, what: str) -> None:
    """Raise CacheError unless x is a tensor whose real numbers are there to be read."""
    given = None
    if not isinstance(x, Tensor):
        given = type(x).__name__
    elif x.is_complex():
        given = str(x.dtype)
    elif x.is_meta or x.layout != torch.strided:
        given = f"a tensor on {x.device}, {x.layout}"
    if given is not None:
        raise CacheError(f"{what} are {given}; pass a tensor of real numbers")


def check_update(
    k: Tensor,
    v: Tensor,
    layer: int,
    shapes: Sequence[KVShape],
    num_slots: int | None,
) -> None:
    """Raise CacheError unless k, v (B, G, T, D) fit a layer. num_slots: what B has to be, None
    where any will do."""
    for name, x in (("keys", k), ("values", v)):
        check_numbers(x, f"the {name}")
    if not 0 <= layer < len(shapes):
        raise CacheError(
            f"layer {layer} does not exist; this cache has layers 0 to {len(shapes) - 1}"
        )
    if shapes[layer].shares is not None:
        raise CacheError(
            f"layer {layer} shares the keys and values of layer {shapes[layer].shares} and stores "
            "none; update only the layers that store"
        )
    heads, widths = shapes[layer].num_kv_heads, (shapes[layer].head_dim, shapes[layer].value_width)
    fits = k.ndim == 4 and k.shape[:3] == v.shape[:3] and v.ndim == 4
    fits = fits and k.shape[0] > 0 and k.shape[2] > 0 and num_slots in (None, k.shape[0])
    if not fits or k.shape[1] != heads or (k.shape[3], v.shape[3]) != widths:
        sizes = [f"({num_slots or 'B'}, {heads}, T, {width})" for width in dict.fromkeys(widths)]
        raise CacheError(
            f"keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit layer {layer}; pass "
            f"(batch, heads, time, head) = {' and '.join(sizes)} "
            f"{'for both' if len(sizes) == 1 else 'for them'}, with T of at least 1"
        )


def check_joins(
    layer: int, num_new: int, done: set[int], layers: Sequence[int], first: int | None
) -> None:
    """Raise CacheError unless `layer` can join the step that some of `layers` have taken part in.

    done: those that have. first: the new tokens that the first of them brought.
    """
    if layer in done:
        missing = sorted(set(layers) - done)
        raise CacheError(
            f"layer {layer} was updated twice in one step while layers {missing} were not; "
            "update every layer once a step, or call abandon() to start the step again"
        )
    if num_new != first:
        raise CacheError(
            f"layer {layer} brings {num_new} new tokens where the step's first layer "
            f"brought {first}; every layer stores the same tokens"
        )
