"""The attention function of attn_implementation="kept"."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from kept.errors import CacheError, OptionError
from kept.integrations.transformers.dense import attend_dense
from kept.integrations.transformers.held import Held, HeldTensor, narrowed
from kept.integrations.transformers.masks import Said, kept_mask, said_by
from kept.integrations.transformers.model import ATTENTION
from kept.integrations.transformers.scores import check_known
from kept.integrations.transformers.support import refuse_unsupported
from kept.integrations.transformers.versions import wants_weights
from kept.ops import AttentionSpec, BlockView, attend_stored, plain_torch
from kept.ops.backend import say_once


def register() -> None:
    """Make attn_implementation="kept" known to transformers, which then refuses it where a model
    does not attend through its interface, or asks of it what it does not compute."""
    refuse_unsupported(frozenset(signature(kept_attention).parameters))
    AttentionInterface.register(ATTENTION, kept_attention)
    AttentionMaskInterface.register(ATTENTION, kept_mask)


def kept_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend what a kept cache holds as it lies there, and anything else as sdpa does.

    query: (B, H, T, D). key, value: (B, G, S, D), as a `KeptCache` hands them out, or any others.
    Returns (B, T, H, D), and weights (B, H, T, S) where `output_attentions` asks for them, as eager
    attention computes them. Raises OptionError for a score that it cannot compute, CacheError for a
    cache that was made for another model.
    """
    check_known(module, others, own_scale=scaling is None)
    wanted = wants_weights(others)
    held = key.held if isinstance(key, HeldTensor) else None
    said = said_by(attention_mask)
    plain = (
        held is not None
        and not wanted
        and isinstance(value, HeldTensor)
        and value.held is held
        and said is not None
        and position_bias is None
        and not dropout
        and getattr(module, "is_causal", True)
        and (is_causal is not False or query.shape[2] == 1 or attention_mask is not None)
    )
    autograd = torch.is_grad_enabled() and query.requires_grad
    if plain and not autograd and held is not None and said is not None:
        _check_made_for(module, held, sliding_window)
        out = _attend(query, held, said, scaling, softcap)
        if out is not None:
            return out, None
    if position_bias is None:
        past = key.shape[2] - query.shape[2]
        _say_why_dense(module, held, said, past, wanted=wanted, autograd=autograd)
    if held is not None and isinstance(value, HeldTensor) and value.held is held:
        key, value = held.dense
    arguments = module, query, key, value, attention_mask, dropout, scaling, is_causal, softcap
    return attend_dense(*arguments, position_bias, wanted=wanted)


def _say_why_dense(
    module: torch.nn.Module,
    held: Held | None,
    said: Said | None,
    past: int,
    *,
    wanted: bool,
    autograd: bool,
) -> None:
    if wanted:
        say_once(
            f"attn_implementation={ATTENTION!r} computes attention weights as eager does, over the "
            "expanded cache, in each call with output_attentions=True"
        )
    elif autograd and past:
        say_once("under autograd, attention expands the cache; run generation in torch.no_grad()")
    elif held is None and past and getattr(module, "is_causal", True):
        say_once(
            f"attn_implementation={ATTENTION!r} was handed keys and values that lie in no kept "
            "cache it can read in place, so it attends them as sdpa does; pass "
            "past_key_values=KeptCache.from_config(model.config)"
        )
    elif held is not None and said is None:
        say_once(
            "a mask hides more than padding on the left, which kept's attention does not read in "
            "place: it expands the cache in each such call, and honours the mask as sdpa does"
        )


@plain_torch()
def _attend(
    query: Tensor, held: Held, said: Said, scaling: float | None, softcap: float | None
) -> Tensor | None:
    """(B, T, H, D); None where that cannot be had of what is held: a mask shows more or less of it
    than a window does."""
    batch, heads, num_new, width = query.shape
    view, past, padding = held.view, held.length - query.shape[2], said.padding
    if any(padding) and held.forgets is not None and held.forgets[1]:
        raise CacheError(
            f"this cache keeps the first {held.forgets[1]} tokens as sinks, and the batch is "
            f"padded on the left by {list(padding)}, so that they are padding; run sequences of "
            "different lengths one by one, or without num_sinks"
        )
    window = said.window
    if held.forgets is None:
        if window is None and held.num_tokens < held.length:
            if num_new > 1:
                return None  # each query sees all that was handed out, which is no window
            window = held.num_tokens
        kept = view.span.window
        if kept is not None and kept < held.length and (window is None or window > kept):
            return None  # the cache holds what this pass sees, and hides it by its own window
    scale = width**-0.5 if scaling is None else scaling
    spec = AttentionSpec(scale, window=window, softcap=softcap)
    windows = [w for w in (spec.window, view.span.window) if w is not None]
    oldest = max(0, past - min(windows) + 1) if windows else 0
    if all(n <= oldest for n in padding):
        rows = query.transpose(1, 2).reshape(-1, heads, width)
        return attend_stored(rows, view, spec).view(batch, num_new, heads, -1)
    return _attend_padded(query, held, padding, spec)


def _attend_padded(
    query: Tensor, held: Held, padding: Sequence[int], spec: AttentionSpec
) -> Tensor:
    """Sequences with equally much padding together, from their first real token on: a copy where
    they lie in blocks, of which none can begin there."""
    batch, heads, num_new, width = query.shape
    whole = held.view.in_runs() if isinstance(held.view, BlockView) else held.view
    out = query.new_zeros(batch, num_new, heads, whole.value_width)
    for left in dict.fromkeys(padding):
        members = tuple(i for i, n in enumerate(padding) if n == left)
        count = min(num_new, held.length - left)
        if count == 0:
            continue  # nothing but padding so far
        rows = query[list(members), :, num_new - count :].transpose(1, 2)
        view = narrowed(whole, left, members)
        found = attend_stored(rows.reshape(-1, heads, width), view, spec)
        out[list(members), num_new - count :] = found.view(len(members), count, heads, -1)
    return out


def _check_made_for(module: Any, held: Held, sliding_window: int | None) -> None:
    """Raise OptionError if the model's layer is not what its cache was made for, or cannot be."""
    kind, window = held.model.kinds[held.layer]
    held.model.check_same(module.config, held.layer)
    if kind == "chunked_attention":
        raise OptionError(
            f"layer {held.layer} attends in chunks, which kept's attention does not; load the "
            "model with attn_implementation='sdpa'"
        )
    if sliding_window is not None and sliding_window != window:
        raise OptionError(
            f"layer {held.layer} attends a window of {sliding_window} tokens and its cache was "
            f"made for one of {window}; make the cache with from_config(model.config)"
        )
