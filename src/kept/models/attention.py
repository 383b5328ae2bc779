"""The attentions of a model with an encoder: over a sequence's own tokens, and over an input."""

from __future__ import annotations

from torch import Tensor, nn

from kept import ops
from kept.cache import LayerStore
from kept.models.layers import Linear, attend, attend_input
from kept.models.record import Record
from kept.ops import AttentionSpec, HeadSpec, RelativeBias


class SelfAttention(nn.Module):
    """Attention over a sequence's own tokens: with `causal` those before a token, else all.

    width: E; heads: H; head_dim: D; scale: what scores are multiplied with; biased: whether its
    matrices have biases.
    """

    def __init__(
        self, width: int, heads: int, head_dim: int, scale: float, *, causal: bool, biased: bool
    ) -> None:
        super().__init__()
        self.heads = HeadSpec(heads, heads, head_dim)
        self.spec = AttentionSpec(scale, causal=causal)
        self.qkv = Linear(width, 3 * heads * head_dim, biased)
        self.out = Linear(heads * head_dim, width, biased)

    def forward(
        self, x: Tensor, bias: RelativeBias | None, store: LayerStore, record: Record
    ) -> Tensor:
        """x: (N, E) -> (N, E). bias: what scores take on by distance."""
        q, k, v = ops.split_heads(self.qkv(x), self.heads)
        out: Tensor = self.out(attend(q, k, v, store, self.spec, record, bias))
        return out


class CrossAttention(nn.Module):
    """Attention over what the encoder has made of an input: all of it, wherever it stands.

    Arguments as of `SelfAttention`.
    """

    def __init__(
        self, width: int, heads: int, head_dim: int, scale: float, *, biased: bool
    ) -> None:
        super().__init__()
        self.heads = HeadSpec(heads, heads, head_dim)
        self.spec = AttentionSpec(scale, causal=False)
        self.q = Linear(width, heads * head_dim, biased)
        self.kv = Linear(width, 2 * heads * head_dim, biased)
        self.out = Linear(heads * head_dim, width, biased)

    def keys(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (M, H, D) of the encoder's output (M, E)."""
        return ops.split_keys(self.kv(states), self.heads)

    def forward(
        self, x: Tensor, store: LayerStore, states: Tensor | None, record: Record
    ) -> Tensor:
        """x: (N, E) -> (N, E). states: (M, E) the encoder's output; None: the store has it."""
        view = store.read() if states is None else store.append(*self.keys(states))
        q = ops.split_queries(self.q(x), self.heads)
        out: Tensor = self.out(attend_input(q, view, self.spec, record))
        return out
