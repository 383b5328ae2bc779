"""transformers' old cache format: a tuple over layers of (keys, values), (B, G, S, D) each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kept.cache.cache import Cache
from kept.cache.make import make_cache
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import KVDtype

LegacyCache = tuple[tuple[Tensor, Tensor], ...]


def to_legacy(cache: Cache) -> LegacyCache:
    """A copy of the cache's content as tuples, bit for bit; int8 and int4 come decoded, in fp32.

    Layers that share another's keys and values have copies of them there.

    Raises CacheError if slots differ in length, or a ring has dropped tokens.
    """
    if len(set(cache.lengths)) > 1:
        raise CacheError(
            f"the tuple format holds sequences of one length, and these slots hold "
            f"{list(cache.lengths)} tokens; truncate or select() them to one length first"
        )
    layers = []
    for index in range(cache.num_layers):
        slots = cache.layer(index)
        layers.append((torch.stack([k for k, _ in slots]), torch.stack([v for _, v in slots])))
    return tuple(layers)


def from_legacy(
    layers: Sequence[tuple[Tensor, Tensor]],
    kind: str = "dynamic",
    *,
    max_cache_len: int | None = None,
    sliding_window: int | None = None,
    num_sinks: int = 0,
    kv_dtype: KVDtype | None = None,
) -> Cache:
    """A cache that holds the tuples' keys and values, bit for bit, in their dtype or as `kv_dtype`.

    Numbers that came out of a cache of int8 or int4 need not be coded as they were before.

    layers: (L,) of (keys, values), (B, G, S, D) each. Other arguments as for `make_cache`.
    Raises CacheError for tensors that do not make a cache.
    """
    _check(layers)
    keys = layers[0][0]
    shapes = [KVShape(k.shape[1], k.shape[3]) for k, _ in layers]
    cache = make_cache(
        shapes,
        kind,
        num_slots=keys.shape[0],
        max_cache_len=max_cache_len,
        sliding_window=sliding_window,
        num_sinks=num_sinks,
        dtype=keys.dtype,
        kv_dtype=kv_dtype,
        device=keys.device,
    )
    if keys.shape[2]:
        for index, (k, v) in enumerate(layers):
            cache.update(k, v, index)
    return cache


def _check(layers: Sequence[tuple[Tensor, Tensor]]) -> None:
    if not layers or any(len(pair) != 2 for pair in layers):
        raise CacheError("the tuple format is one (keys, values) pair per layer, for all layers")
    first = layers[0][0]
    for index, (k, v) in enumerate(layers):
        same = k.shape == v.shape and k.ndim == 4 and first.ndim == 4
        if not same or (k.shape[0], k.shape[2]) != (first.shape[0], first.shape[2]):
            raise CacheError(
                f"layer {index} has keys {tuple(k.shape)} and values {tuple(v.shape)}; all layers "
                f"need (batch, heads, time, head) with batch and time as in layer 0, "
                f"{tuple(first.shape)}"
            )
        if k.dtype != first.dtype or v.dtype != first.dtype:
            raise CacheError(f"layer {index} is {k.dtype}/{v.dtype}, layer 0 {first.dtype}")
