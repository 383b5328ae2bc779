"""One face for each operation: plain torch for tensors, a line of a trace for its stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kept.ops import (
    latent,
    mixture,
    reference,
    streams,
    trace,
    trace_experts,
    trace_latent,
    trace_streams,
)
from kept.ops.adapters import Adapters, adapt
from kept.ops.bias import Bias
from kept.ops.latent import HeadMatrices, LatentSpec
from kept.ops.mixture import Expert, Router, Routing
from kept.ops.spec import AttentionSpec, HeadSpec
from kept.ops.views import KVView

Rope = tuple[Tensor, Tensor] | None  # cos, sin (N, 1, R), or None where positions are absolute

# The stand-ins quack like tensors for exactly what models do with them, and models are typed for
# tensors; so the trace goes untyped here, and nowhere else.
_trace: Any = trace


def attend(q: Tensor, view: KVView, spec: AttentionSpec, bias: Bias | None = None) -> Tensor:
    """Softmax attention of packed queries over a view.

    q: (N, H, D). bias: what the scores take on by distance (T5, ALiBi).
    Returns (N, H, D) in q's dtype.
    Head h reads key head h // (H / G).
    Source: Vaswani et al. 2017, equation 1; grouped heads after Ainslie et al. 2023.
    """
    if trace.is_traced(q):
        out: Tensor = _trace.attend(q, view, spec, bias)
        return out
    return reference.attend(q, view, spec, bias)


def split_heads(
    qkv: Tensor,
    heads: HeadSpec,
    rope: Rope = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    v_norm: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (N, H, D), keys and values (N, G, D) of a fused projection (N, (H + 2 G) D).

    q_norm, k_norm: (D,) weights of a norm over each head, before the rotation, or (H, D) and
    (G, D). v_norm: (D,), of values. rope: cos and sin (N, 1, R). Source: Qwen 3 for norms, Su et
    al. 2021 for the rotation.
    """
    take = _trace if trace.is_traced(qkv) else reference
    found: tuple[Tensor, Tensor, Tensor] = take.split_heads(
        qkv, heads, rope, q_norm, k_norm, v_norm
    )
    return found


def split_queries(
    q: Tensor, heads: HeadSpec, rope: Rope = None, q_norm: Tensor | None = None
) -> Tensor:
    """Queries (N, H, D) of a projection (N, H D) that makes no keys and values; see `split_heads`.

    For layers that attend what another one stores.
    """
    take = _trace if trace.is_traced(q) else reference
    found: Tensor = take.split_queries(q, heads, rope, q_norm)
    return found


def split_keys(kv: Tensor, heads: HeadSpec) -> tuple[Tensor, Tensor]:
    """Keys and values (N, G, D) of a projection (N, 2 G D) that makes no queries.

    For layers whose keys are of other tokens than their queries.
    """
    take = _trace if trace.is_traced(kv) else reference
    found: tuple[Tensor, Tensor] = take.split_keys(kv, heads)
    return found


def head_products(x: Tensor, matrices: HeadMatrices, stride: int) -> Tensor:
    """What each of H heads' matrices (B, A) makes of its own numbers in a row.

    x: (N, ..); those of head h are A from h * stride on. Returns (N, H B).
    """
    take: Any = trace_latent if trace.is_traced(x) else latent
    out: Tensor = take.head_products(x, matrices, stride)
    return out


def split_latent(
    absorbed: Tensor,
    q: Tensor,
    compressed: Tensor,
    norm: Tensor,
    spec: LatentSpec,
    rope: Rope,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (N, H, C + R), keys (N, 1, C + R) and values (N, 1, C), which begin the keys.

    absorbed: (N, H C) what queries multiply the latent with. q: (N, H (plain + R)), of which what
    turns is the end of each head. compressed: (N, C + R), the latent, normed with the weights norm
    (C,), and what turns of it. rope: cos and sin (N, 1, R). Source: see `ops/latent.py`.
    """
    take: Any = trace_latent if trace.is_traced(q) else latent
    found: tuple[Tensor, Tensor, Tensor] = take.split_latent(
        absorbed, q, compressed, norm, spec, rope
    )
    return found


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, in fp32 inside. Source: Zhang, Sennrich 2019.

    weight: of x's dtype, and x / rms(x) is rounded to it first (Llama); or fp32, and only the
    product is rounded (Gemma).
    """
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.rms_norm(x, weight, eps)
    return out


def norm_parts(x: Tensor, weights: Sequence[Tensor], eps: float) -> Tensor:
    """`rms_norm` of parts of each row (N, ...), one behind the other, as wide as their weights.

    What lies behind them stays as it is. Consumes x. For norms over all heads of a projection
    (OLMo 2).
    """
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.norm_parts(x, weights, eps)
    return out


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / std * weight + bias over the last dimension. Source: Ba et al. 2016."""
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.layer_norm(x, weight, bias, eps)
    return out


def post_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """`layer_norm` of what residual sums have come to, which go on from there. Consumes x.

    For norms that stand behind sums and not before what is added (Vaswani et al. 2017).
    """
    if trace.is_traced(x):
        out: Tensor = _trace.post_norm(x, weight, bias, eps)
        return out
    return reference.layer_norm(x, weight, bias, eps)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, adapters: Adapters | None = None
) -> Tensor:
    """x @ weight.T + bias, and what adapters add to rows that go through one. x: (N, in), weight:
    (out, in), bias: (out,)."""
    if trace.is_traced(x):
        traced: Tensor = _trace.linear(x, weight, bias, adapters)
        return traced
    out = reference.linear(x, weight, bias)
    return out if adapters is None else adapt(x, out, adapters)


def embedding(
    ids: Tensor, weight: Tensor, scale: float = 1.0, others_first: bool = False
) -> Tensor:
    """Rows of a table (V, E) by ids (N,), times `scale`: (N, E). others_first: ids from V on have
    the first row."""
    take = _trace if trace.is_traced(ids) else reference
    out: Tensor = take.embedding(ids, weight, scale, others_first)
    return out


def times(x: Tensor, y: Tensor, begin: int) -> Tensor:
    """x (N, K), number by number times columns `begin` to `begin` + K of y (N, ...)."""
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.times(x, y, begin)
    return out


def scaled(x: Tensor, factor: Tensor | float) -> Tensor:
    """The residual stream x (N, E) times a number or weight (1,). Consumes x. Source: Gemma 4."""
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.scaled(x, factor)
    return out


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap) in fp32, which keeps logits within the cap. Source: Gemma 2."""
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.soft_cap(x, cap)
    return out


def gated(x: Tensor, activation: str) -> Tensor:
    """act(gate) * up for x = (N, 2F) with the gate first. Source: Shazeer 2020 (GLU variants)."""
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.gated(x, activation)
    return out


def activate(x: Tensor, activation: str) -> Tensor:
    """An activation by its config name (`hidden_act`, `activation_function`)."""
    take = _trace if trace.is_traced(x) else reference
    out: Tensor = take.activate(x, activation)
    return out


def experts(
    x: Tensor,
    router: Router,
    choices: Sequence[Expert],
    routing: Routing,
    activation: str,
    shared: Tensor | None = None,
) -> Tensor:
    """The weighed sum (N, E) of what its experts make of each row of x (N, E), of X of them.

    It is taken in fp32, in ascending order of the experts; weights of experts that no row chose are
    not read. shared: (N, E), what an expert that all rows go to made of them, which comes behind
    the others, weighed by the sigmoid of the router's last score.
    """
    take: Any = trace_experts if trace.is_traced(x) else mixture
    out: Tensor = take.experts(x, router, choices, routing, activation, shared)
    return out


def _streams(x: Tensor) -> Any:
    return trace_streams if trace.is_traced(x) else streams


def columns(x: Tensor, begin: int, width: int, weight: Tensor | None = None) -> Tensor:
    """Columns `begin` to `begin` + `width` of x (N, ...), times a weight (width,)."""
    out: Tensor = _streams(x).columns(x, begin, width, weight)
    return out


def spread(x: Tensor, sides: Sequence[Tensor], least: float) -> Tensor:
    """Streams (N, S * E) side by side: x (N, E), and each of `sides` (N, E) scaled so that its root
    mean square is x's. least: the mean square that a side is taken to have at least."""
    out: Tensor = _streams(x).spread(x, sides, least)
    return out


def joined(x: Tensor, sides: Sequence[Tensor], least: float) -> Tensor:
    """The mean (N, E) of x and of `sides`, which are scaled as in `spread`."""
    out: Tensor = _streams(x).joined(x, sides, least)
    return out


def score(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, E) times a weight (S, E) in fp32, whatever the other matrices are: (N, S)."""
    out: Tensor = _streams(x).score(x, weight)
    return out


def predict(x: Tensor, routes: Tensor, weight: Tensor) -> Tensor:
    """Streams x (N, S * E), and to each a weighed sum of all of them. Consumes x.

    routes: (N, S). weight: (S * S, S), which makes the S weights of each stream of tanh(routes).
    Source: Baykal et al. 2023.
    """
    out: Tensor = _streams(x).predict(x, routes, weight)
    return out


def correct(x: Tensor, routes: Tensor, weight: Tensor, active: Tensor, index: int) -> Tensor:
    """Streams x (N, S * E), and to each what is new in `active` (N, E) over stream `index`, times 1
    and a weight. Consumes x. weight: (S, S), which makes S weights of tanh(routes (N, S))."""
    out: Tensor = _streams(x).correct(x, routes, weight, active, index)
    return out


def add_behind(x: Tensor, y: Tensor) -> Tensor:
    """Streams x (N, S * E), and y (N, E) to each but the first. Consumes x."""
    out: Tensor = _streams(x).add_behind(x, y)
    return out


def gated_sparsely(gates: Tensor, ups: Tensor, deviations: float, activation: str) -> Tensor:
    """act(max(gates - cut, 0)) * ups, all (N, F); cut: the mean of a row's gates, and so many of
    their standard deviations. Source: config `activation_sparsity_pattern` of Gemma 3n."""
    out: Tensor = _streams(gates).gated_sparsely(gates, ups, deviations, activation)
    return out
