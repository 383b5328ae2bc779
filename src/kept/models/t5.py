"""T5: v1.0, v1.1 and Flan. Positions are a bias on the scores by distance, scores are not scaled.

    encoder    x + attention(norm(x)),  x + mlp(norm(x))                  every token sees all
    decoder    x + attention(norm(x)),  x + cross(norm(x)),  x + mlp(norm(x))

v1.0 has one matrix before the activation and an output layer that is the embedding's table, scaled;
v1.1 has gates and an output layer of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import KVShape, LayerStore
from kept.models.attention import CrossAttention, SelfAttention
from kept.models.encoder_decoder import Encoder, EncoderDecoderLM
from kept.models.layers import Embedding, Linear, RMSNorm
from kept.models.record import Record
from kept.models.t5_config import T5Config
from kept.ops import MAX_REACH, RelativeBias, Rope


def _attention(config: T5Config, *, causal: bool) -> SelfAttention:
    width, heads, head_dim = config.hidden_size, config.num_heads, config.head_dim
    return SelfAttention(width, heads, head_dim, 1.0, causal=causal, biased=False)


class T5MLP(nn.Module):
    """down(act(up(x))), or with gates down(act(gate(x)) * up(x)); one matrix makes both."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        count = (2 if config.gated else 1) * config.mlp_size
        self.up = Linear(config.hidden_size, count, bias=False, gated=config.gated)
        self.down = Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        act = ops.gated if self.gated else ops.activate
        out: Tensor = self.down(act(self.up(x), self.activation))
        return out


class T5EncoderBlock(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        self.attention_norm = RMSNorm(width, eps)
        self.attention = _attention(config, causal=False)
        self.mlp_norm, self.mlp = RMSNorm(width, eps), T5MLP(config)

    def forward(self, x: Tensor, bias: RelativeBias, store: LayerStore, record: Record) -> Tensor:
        """x: (M, E) -> (M, E)."""
        x = x + self.attention(self.attention_norm(x), bias, store, record)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class T5DecoderBlock(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        self.attention_norm, self.cross_norm = RMSNorm(width, eps), RMSNorm(width, eps)
        self.attention = _attention(config, causal=True)
        self.cross = CrossAttention(width, config.num_heads, config.head_dim, 1.0, biased=False)
        self.mlp_norm, self.mlp = RMSNorm(width, eps), T5MLP(config)

    def forward(
        self,
        x: Tensor,
        bias: RelativeBias,
        store: LayerStore,
        cross: LayerStore,
        states: Tensor | None,
        record: Record,
    ) -> Tensor:
        """x: (N, E) -> (N, E). states: see `CrossAttention`."""
        x = x + self.attention(self.attention_norm(x), bias, store, record)
        x = x + self.cross(self.cross_norm(x), cross, states, record)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class T5Encoder(Encoder):
    """All of an input's tokens to vectors; stored nowhere."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.max_distance = config.max_distance
        self.shapes = (KVShape(config.num_heads, config.head_dim),) * config.num_encoder_layers
        self.bias = Embedding(config.num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(
            T5EncoderBlock(config) for _ in range(config.num_encoder_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def shared(self) -> RelativeBias:
        """The bias of all blocks."""
        return RelativeBias(self.bias.weight, self.max_distance, bidirectional=True)


class T5(EncoderDecoderLM):
    """A T5 encoder and decoder."""

    too_narrow = (torch.float16,)
    not_evicting = (
        "T5's scores depend on how far apart tokens are, and an evicting cache closes the gaps of "
        "those that leave"
    )

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.max_distance, self.output_scale = config.max_distance, config.output_scale
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.encoder = T5Encoder(config)
        self.bias = Embedding(config.num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(T5DecoderBlock(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight

    @property
    def not_native(self) -> str | None:  # type: ignore[override]
        """See `CausalLM.not_native`."""
        if self.max_distance <= MAX_REACH:
            return None
        return (
            f"the native kernels take biases of distances up to {MAX_REACH:,}, and this model's "
            f"reach to {self.max_distance:,}"
        )

    def embed(self, batch: Batch) -> tuple[Tensor, Rope]:
        """Token vectors (N, E); their places are seen in attention."""
        return self.embedding(batch.tokens), None

    def shared(self) -> RelativeBias:
        """The bias of all blocks."""
        return RelativeBias(self.bias.weight, self.max_distance, bidirectional=False)

    def embed_input(self, batch: Batch) -> Tensor:
        """See `EncoderDecoderLM.embed_input`."""
        return self.embed(batch)[0]

    def input_bytes(self, length: int) -> int:
        """See `EncoderDecoderLM.input_bytes`; on torch every pair of tokens has a bias."""
        if self.native is not None:
            return super().input_bytes(length)
        config = self.config
        assert isinstance(config, T5Config)
        # Its bias for each head, and the distances and buckets that it is looked up by.
        return length**2 * (config.num_heads * self.dtype.itemsize + 5 * torch.int64.itemsize)

    def project(self, x: Tensor) -> Tensor:
        """See `CausalLM.project`."""
        return super().project(x * self.output_scale)
