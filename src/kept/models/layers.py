"""Building blocks the families share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kept import ops
from kept.cache import LayerStore
from kept.models.record import Record
from kept.ops import AttentionSpec, Bias, KVView


def parameter(*size: int) -> nn.Parameter:
    """A shape without memory, which loading replaces by what a checkpoint holds."""
    return nn.Parameter(torch.empty(size, dtype=torch.float32, device="meta"))


class Linear(nn.Module):
    """y = x W^T + b, W (out, in). gated: the first half of the outputs are gates of the second."""

    def __init__(self, num_in: int, num_out: int, bias: bool, gated: bool = False) -> None:
        super().__init__()
        self.gated = gated
        self.weight = parameter(num_out, num_in)
        self.bias = parameter(num_out) if bias else None
        self.adapters: ops.Adapters | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in) -> (N, out)."""
        return ops.linear(x, self.weight, self.bias, self.adapters)


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)); one matrix makes gate and up."""

    def __init__(self, width: int, size: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up = Linear(width, 2 * size, bias, gated=True)
        self.down = Linear(size, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        out: Tensor = self.down(ops.gated(self.gate_up(x), self.activation))
        return out


class RMSNorm(nn.Module):
    """Root-mean-square norm (config `rms_norm_eps`)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = parameter(width)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width), normalised over the last dimension."""
        return ops.rms_norm(x, self.weight, self.eps)


class ShiftedRMSNorm(RMSNorm):
    """Root-mean-square norm whose weights are stored less one, as Gemma's are."""

    @property
    def factor(self) -> Tensor:
        """(width,) fp32, what the normalised rows are multiplied by."""
        return 1.0 + self.weight.float()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width), normalised over the last dimension."""
        return ops.rms_norm(x, self.factor, self.eps)


class WideRMSNorm(RMSNorm):
    """Root-mean-square norm that rounds nothing before its weights, as Gemma 4's."""

    @property
    def factor(self) -> Tensor:
        """(width,) fp32."""
        return self.weight.float()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width), normalised over the last dimension."""
        return ops.rms_norm(x, self.factor, self.eps)


class LayerNorm(nn.Module):
    """Layer norm (config `layer_norm_epsilon`)."""

    def __init__(self, width: int, eps: float, bias: bool = True) -> None:
        super().__init__()
        self.weight = parameter(width)
        self.bias = parameter(width) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width), normalised over the last dimension."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class PostNorm(LayerNorm):
    """Layer norm of what residual sums have come to, which go on from there (post-norm)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, width), which is not to be used again."""
        return ops.post_norm(x, self.weight, self.bias, self.eps)


class PlainNorm(nn.Module):
    """Layer norm without weights or biases (OLMo)."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., E), normalised over the last dimension."""
        return ops.layer_norm(x, None, None, self.eps)


class Embedding(nn.Module):
    """A table of vectors (rows, E). others_first: ids that it has no row for have its first."""

    def __init__(self, num_rows: int, width: int, *, others_first: bool = False) -> None:
        super().__init__()
        self.weight, self.others_first = parameter(num_rows, width), others_first

    def forward(self, ids: Tensor, scale: float = 1.0) -> Tensor:
        """ids: (N,) -> (N, E), times `scale`."""
        return ops.embedding(ids, self.weight, scale, self.others_first)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    store: LayerStore,
    spec: AttentionSpec,
    record: Record,
    bias: Bias | None = None,
) -> Tensor:
    """Store the new keys and values, then attend everything stored. q: (N, H, D), k, v: (N, G, D).

    Returns (N, H * D).
    """
    view = store.append(k, v)
    store.observe(q, spec)
    return _attend(q, view, spec, record, bias)


def attend_shared(q: Tensor, store: LayerStore, spec: AttentionSpec, record: Record) -> Tensor:
    """Attend what the layer that this one shares has stored. q: (N, H, D). Returns (N, H * D)."""
    return _attend(q, store.read(), spec, record)


def _attend(
    q: Tensor,
    view: KVView,
    spec: AttentionSpec,
    record: Record,
    bias: Bias | None = None,
) -> Tensor:
    if not record.want_attention:
        return ops.attend(q, view, spec, bias).flatten(1)
    out, weights = ops.attend_with_weights(q, view, spec, bias)
    record.take_attention(view.span, weights, q, spec)
    return out.flatten(1)


def attend_input(q: Tensor, view: KVView, spec: AttentionSpec, record: Record) -> Tensor:
    """Attend an encoder's input. q: (N, H, D); returns (N, H * D)."""
    if not record.want_attention:
        return ops.attend(q, view, spec).flatten(1)
    out, weights = ops.attend_with_weights(q, view, spec)
    record.cross_attention.append((view.span, weights))
    return out.flatten(1)
