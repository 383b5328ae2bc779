"""The operations in plain torch: the specification the kernels are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kept.ops.bias import Bias, biased_mask
from kept.ops.cross_view import CrossView
from kept.ops.masks import Visibility, visibility
from kept.ops.norms import layer_norm as layer_norm
from kept.ops.norms import norm_heads, rms_norm
from kept.ops.norms import norm_parts as norm_parts
from kept.ops.spec import AttentionSpec, HeadSpec
from kept.ops.views import Group, KVView


def attend(q: Tensor, view: KVView, spec: AttentionSpec, bias: Bias | None = None) -> Tensor:
    """Softmax attention of packed queries over a view; see `ops`."""
    if spec.softcap is not None or spec.idle is not None:
        return attend_with_weights(q, view, spec, bias)[0]
    if isinstance(view, CrossView) and bias is None and not spec.causal:
        return _attend_inputs(q, view, spec)
    keys, values = view.stored()
    out: Tensor | None = None
    for group in view.span.groups:
        seen = visibility(view.span, spec, group)
        added = None if bias is None else biased_mask(bias, view.span, spec, group, seen)
        k, v = (_of_group(x, group, seen).to(q.dtype) for x in (keys, values))
        attended = _sdpa(_rows(q, group), k, v, seen, spec, added)  # (B', T, H, D)
        if group.first is not None and attended.shape[0] * attended.shape[1] == q.shape[0]:
            return attended.reshape(*q.shape[:2], v.shape[3])
        out = _room(q, v) if out is None else out
        _put(out, group, attended)
    assert out is not None, "a batch has at least one row"
    return out


def _attend_inputs(q: Tensor, view: CrossView, spec: AttentionSpec) -> Tensor:
    """Each encoder input is read once for all the rows that attend it, and all of it is seen."""
    out = torch.empty_like(q)
    for rows, keys, values in view.by_input():
        queries = q[rows].transpose(0, 1)[None]  # (1, H, R, D)
        if not queries.shape[2]:
            continue
        k, v = keys[None].to(q.dtype), values[None].to(q.dtype)
        shared = queries.shape[1] != k.shape[1]
        attended = F.scaled_dot_product_attention(
            queries, k, v, scale=spec.scale, enable_gqa=shared
        )
        if attended.shape[2] == q.shape[0]:
            return attended[0].transpose(0, 1)
        out[rows] = attended[0].transpose(0, 1)
    return out


def attend_with_weights(
    q: Tensor, view: KVView, spec: AttentionSpec, bias: Bias | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Attention written out, with the weights it used.

    q: (N, H, D). bias: as `ops.attend` takes it. Returns (N, H, D) and, for each
    group of the view's span, weights (B', H, T, S) in q's dtype over the span's stored entries.
    """
    keys, values = view.stored()
    out, weights = _room(q, values), []
    for group in view.span.groups:
        seen = visibility(view.span, spec, group)
        k, v = (_of_group(x, group, seen).to(q.dtype) for x in (keys, values))
        queries = _rows(q, group).transpose(1, 2)  # (B', H, T, D)
        scores = _fold_heads(queries, k.shape[1]) @ k[:, :, None].transpose(-1, -2) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        if bias is not None:
            scores = scores + _fold_heads(
                biased_mask(bias, view.span, spec, group, seen), k.shape[1]
            )
        else:
            hidden = ~seen.explicit(group.num_new, q.device)
            scores = scores.masked_fill(hidden[:, None, None], -math.inf)
        probabilities = soften(scores, spec).to(q.dtype)  # (B', G, H/G, T, S)
        _put(out, group, (probabilities @ v[:, :, None]).flatten(1, 2).transpose(1, 2))
        whole = probabilities.new_zeros(*queries.shape[:3], view.span.width)
        whole[..., seen.begin : seen.end] = probabilities.flatten(1, 2)
        weights.append(whole)
    return out, weights


def soften(scores: Tensor, spec: AttentionSpec) -> Tensor:
    """The weights (..., G, H/G, T, S) fp32 of scores as wide, some of which may go to nothing."""
    if spec.idle is None:
        return scores.softmax(-1, dtype=torch.float32)
    idle = spec.idle.to(scores.dtype).reshape(*scores.shape[-4:-2], 1, 1)
    every = torch.cat((scores, idle.expand(*scores.shape[:-1], 1)), dim=-1)
    return every.softmax(-1, dtype=torch.float32)[..., :-1]


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Visibility,
    spec: AttentionSpec,
    added: Tensor | None,
) -> Tensor:
    """q: (B', T, H, D). added: (B' or 1, H, T, S), in place of the mask."""
    mask = None if seen.mask is None else seen.mask[:, None]
    if added is not None:
        mask = added.to(q.dtype)
    if q.shape[1] == 1:
        # One query a sequence: the heads that share keys become rows, so each key is read once.
        folded = q.squeeze(1).reshape(q.shape[0], k.shape[1], -1, q.shape[3])  # (B', G, H/G, D)
        if added is not None:
            assert mask is not None
            mask = _fold_heads(mask, k.shape[1]).squeeze(3)  # (B', G, H/G, S)
        return F.scaled_dot_product_attention(
            folded, k, v, attn_mask=mask, scale=spec.scale
        ).flatten(1, 2)[:, None]
    return F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k,
        v,
        attn_mask=mask,
        is_causal=seen.causal and added is None,
        scale=spec.scale,
        enable_gqa=q.shape[2] != k.shape[1],
    ).transpose(1, 2)


def _room(q: Tensor, values: Tensor) -> Tensor:  # (N, H, D), as wide as values are
    return q.new_empty(*q.shape[:2], values.shape[3])


def _fold_heads(x: Tensor, num_kv_heads: int) -> Tensor:  # (B', H, T, D) -> (B', G, H/G, T, D)
    return x.reshape(x.shape[0], num_kv_heads, -1, *x.shape[2:])


def _rows(x: Tensor, group: Group) -> Tensor:  # (N, H, D) -> (B', T, H, D)
    if group.rows is not None:
        return x[group.rows]
    assert group.first is not None
    count = len(group.members)
    rows = x[group.first : group.first + count * group.num_new]
    return rows.reshape(count, group.num_new, *x.shape[1:])


def _put(out: Tensor, group: Group, attended: Tensor) -> None:
    if group.rows is not None:
        out[group.rows] = attended
        return
    assert group.first is not None
    rows = out[group.first : group.first + len(group.members) * group.num_new]
    rows.copy_(attended.reshape(rows.shape))


def _of_group(x: Tensor, group: Group, seen: Visibility) -> Tensor:  # -> (B', G, S', D)
    first, count = group.members[0], len(group.members)
    if count != x.shape[0]:
        if group.members == tuple(range(first, first + count)):
            x = x[first : first + count]
        else:
            x = x[list(group.members)]
    return x[:, :, seen.begin : seen.end]


def split_heads(
    qkv: Tensor,
    heads: HeadSpec,
    rope: tuple[Tensor, Tensor] | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    v_norm: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a fused projection, normalised and rotated; see `ops`."""
    num_heads, num_keys = heads.num_heads, heads.num_kv_heads
    x = qkv.unflatten(1, (num_heads + 2 * num_keys, heads.head_dim))  # (N, H + 2G, D)
    qk, v = x[:, : num_heads + num_keys], x[:, num_heads + num_keys :]
    if q_norm is not None and k_norm is not None:
        q = norm_heads(qk[:, :num_heads], q_norm, heads)
        k = norm_heads(qk[:, num_heads:], k_norm, heads)
        qk = torch.cat((q, k), dim=1)
    if rope is not None:
        qk = rotary(qk, *rope, neighbours=heads.neighbours)
    if v_norm is not None:
        v = rms_norm(v, v_norm, heads.norm_eps)
    return qk[:, :num_heads], qk[:, num_heads:], v


def split_queries(
    q: Tensor,
    heads: HeadSpec,
    rope: tuple[Tensor, Tensor] | None = None,
    q_norm: Tensor | None = None,
) -> Tensor:
    """Queries alone, normalised and rotated; see `ops`."""
    x = q.unflatten(1, (heads.num_heads, heads.head_dim))  # (N, H, D)
    if q_norm is not None:
        x = norm_heads(x, q_norm, heads)
    return x if rope is None else rotary(x, *rope, neighbours=heads.neighbours)


def split_keys(kv: Tensor, heads: HeadSpec) -> tuple[Tensor, Tensor]:
    """Keys and values of a projection that makes no queries; see `ops`."""
    k, v = kv.unflatten(1, (2 * heads.num_kv_heads, heads.head_dim)).chunk(2, dim=1)
    return k, v


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, neighbours: bool = False) -> Tensor:
    """Rotary position embedding, halves rotated against each other, or neighbours.

    x: (N, H, D). cos, sin: (N, 1, R) with R <= D, whose halves are the same; with R < D the last
    D - R of each head pass through. Source: Su et al. 2021, who turn neighbours; the pairing of i
    with i + R / 2 is GPT-NeoX's.
    """
    width = cos.shape[-1]
    turned = x if width == x.shape[-1] else x[..., :width]
    if neighbours:
        cos, sin = (t[..., : width // 2].repeat_interleave(2, dim=-1) for t in (cos, sin))
        pairs = turned.unflatten(-1, (-1, 2))
        across = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    else:
        low, high = turned.chunk(2, dim=-1)
        across = torch.cat((-high, low), dim=-1)
    rotated = torch.addcmul(turned * cos, across, sin)
    return rotated if width == x.shape[-1] else torch.cat((rotated, x[..., width:]), dim=-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias. x: (N, in), weight: (out, in), bias: (out,)."""
    if x.shape[0] == 1 and x.dtype == torch.bfloat16 and x.device.type == "cpu":
        # torch's matrix-vector product reads bf16 weights a quarter faster than its matrix product.
        row = torch.mv(weight, x[0])
        return (row if bias is None else row + bias)[None]
    return F.linear(x, weight, bias)


def embedding(
    ids: Tensor, weight: Tensor, scale: float = 1.0, others_first: bool = False
) -> Tensor:
    """Rows of a table (V, E) by ids (N,), times `scale`: (N, E)."""
    if others_first:
        ids = torch.where(ids < weight.shape[0], ids, 0)
    rows = F.embedding(ids, weight)
    return rows if scale == 1 else rows * scale


def times(x: Tensor, y: Tensor, begin: int) -> Tensor:
    """x times as many columns of y; see `ops`."""
    return x * y[:, begin : begin + x.shape[1]]


def scaled(x: Tensor, factor: Tensor | float) -> Tensor:
    """x times a number."""
    return x * factor


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap) in fp32."""
    return cap * torch.tanh(x.float() / cap)


def gated(x: Tensor, activation: str) -> Tensor:
    """act(gate) * up for x = (N, 2F) with the gate first. Source: Shazeer 2020 (GLU variants)."""
    gate, up = x.chunk(2, dim=-1)
    if activation == CLAMPED_SWIGLU:
        gate, up = gate.clamp(max=_SWIGLU_LIMIT), up.clamp(-_SWIGLU_LIMIT, _SWIGLU_LIMIT)
        return gate * torch.sigmoid(_SWIGLU_ALPHA * gate) * (up + 1)
    return activate(gate, activation) * up


def activate(x: Tensor, activation: str) -> Tensor:
    """An activation by its config name (`hidden_act`, `activation_function`)."""
    return ACTIVATIONS[activation](x)


# Of gates alone: a SwiGLU within bounds, which lets a bit of what is not gated through (gpt-oss).
CLAMPED_SWIGLU = "clamped_swiglu"
_SWIGLU_ALPHA, _SWIGLU_LIMIT = 1.702, 7.0

_gelu_tanh = partial(F.gelu, approximate="tanh")
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "relu": F.relu,
}
