"""transformers' old cache format: a tuple over layers of (keys, values), (B, G, S, D) each.

Those of an encoder-decoder model are (keys, values, keys, values), the input's last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kept.cache.cache import Cache
from kept.cache.checks import check_numbers
from kept.cache.make import make_cache
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import KVDtype, plain_torch

LegacyCache = tuple[tuple[Tensor, ...], ...]


@plain_torch()
def to_legacy(cache: Cache) -> LegacyCache:
    """A copy of the cache's content as tuples, bit for bit; int8 and int4 come decoded, in fp32.

    Layers that share another's keys and values have copies of them there.

    Raises CacheError if slots, or the encoder inputs they attend, differ in length, if there are
    not as many cross layers as others, or if a window has passed tokens.
    """
    if not isinstance(cache, Cache):
        raise CacheError(f"{cache!r:.100} is no cache; pass one of make_cache")
    for lengths, advice in (
        (cache.lengths, "truncate or select() them to one length first"),
        (cache.input_lengths, "select() slots whose inputs are of one length first"),
    ):
        if len(set(lengths)) > 1:
            raise CacheError(
                f"the tuple format holds sequences of one length, and these slots hold "
                f"{list(lengths)} tokens; {advice}"
            )
    count, num_cross = cache.num_layers, len(cache.shapes) - cache.num_layers
    if num_cross not in (0, count):
        raise CacheError(
            f"the tuple format has a cross layer beside each other layer, and this cache has "
            f"{num_cross} beside {count}"
        )
    pairs = [_stacked(cache, index) for index in range(len(cache.shapes))]
    if not num_cross:
        return tuple(pairs)
    return tuple((*own, *cross) for own, cross in zip(pairs[:count], pairs[count:], strict=True))


def _stacked(cache: Cache, index: int) -> tuple[Tensor, Tensor]:
    slots = cache.layer(index)
    return torch.stack([k for k, _ in slots]), torch.stack([v for _, v in slots])


@plain_torch()
def from_legacy(
    layers: Sequence[tuple[Tensor, ...]],
    kind: str = "dynamic",
    *,
    max_cache_len: int | None = None,
    sliding_window: int | None = None,
    num_sinks: int = 0,
    kv_dtype: KVDtype | None = None,
) -> Cache:
    """A cache that holds the tuples' keys and values, bit for bit, in their dtype or as `kv_dtype`.

    Numbers that came out of a cache of int8 or int4 need not be coded as they were before.

    layers: (L,) of (keys, values), (B, G, S, D) each, or with the keys and values of an encoder
        input behind them, which is then stored for each sequence. Other arguments as for
        `make_cache`.
    Raises CacheError for tensors that do not make a cache.
    """
    own, cross = _read(layers)
    keys = own[0][0]
    if min(keys.shape[0], keys.shape[1], keys.shape[3]) < 1 or not keys.dtype.is_floating_point:
        raise CacheError(
            f"layer 0 has keys {tuple(keys.shape)} of {keys.dtype}; pass (batch, heads, time, "
            "head) of at least 1 each but time, of floating point"
        )
    shapes = [KVShape(k.shape[1], k.shape[3], value_dim=v.shape[3]) for k, v in own]
    shapes += [KVShape(k.shape[1], k.shape[3], cross=True) for k, _ in cross]
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
    if cross and cross[0][0].shape[2]:
        for index, (k, v) in enumerate(cross):
            cache.update(k, v, len(own) + index)
    if keys.shape[2]:
        for index, (k, v) in enumerate(own):
            cache.update(k, v, index)
    return cache


Pairs = list[tuple[Tensor, Tensor]]


def _read(layers: Sequence[tuple[Tensor, ...]]) -> tuple[Pairs, Pairs]:
    """The layers' own keys and values, and those of encoder inputs, if there are any."""
    listed = isinstance(layers, list | tuple) and all(isinstance(x, list | tuple) for x in layers)
    widths = {len(tensors) for tensors in layers} if listed else set()
    if widths not in ({2}, {4}):
        raise CacheError(
            "the tuple format is one (keys, values) pair per layer, for all layers, or (keys, "
            "values, keys, values) where an encoder's input is attended too"
        )
    own = [(tensors[0], tensors[1]) for tensors in layers]
    cross = [(tensors[2], tensors[3]) for tensors in layers] if widths == {4} else []
    for pairs in (own, cross):
        _check(pairs, own[0][0])
    return own, cross


def _check(layers: Pairs, keys: Tensor) -> None:
    """keys: what batch and dtype have to be those of."""
    first = layers[0][0] if layers else keys
    check_numbers(first, "the keys of layer 0")
    check_numbers(keys, "the keys of layer 0")
    for index, (k, v) in enumerate(layers):
        check_numbers(k, f"the keys of layer {index}")
        check_numbers(v, f"the values of layer {index}")
        same = k.shape[:3] == v.shape[:3] and k.ndim == v.ndim == first.ndim == 4
        if not same or (k.shape[0], k.shape[2]) != (keys.shape[0], first.shape[2]):
            raise CacheError(
                f"layer {index} has keys {tuple(k.shape)} and values {tuple(v.shape)}; all layers "
                f"need (batch, heads, time, head) with batch and time as in layer 0, "
                f"{tuple(first.shape)}"
            )
        if k.dtype != keys.dtype or v.dtype != keys.dtype:
            raise CacheError(f"layer {index} is {k.dtype}/{v.dtype}, layer 0 {keys.dtype}")
