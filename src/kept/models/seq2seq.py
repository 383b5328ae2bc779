"""An encoder and a decoder in the manner of BART, by their parts: what a `Seq2SeqConfig` describes.

    encoder    attention, mlp              every token sees all
    decoder    attention, cross, mlp

Each of these stands in x + f(norm(x)), or in norm(x + f(x)). Of the latter the norm behind the last
block's MLP is what the former have behind all blocks, and is kept there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import KVShape, LayerStore
from kept.errors import ContextLengthError
from kept.models.attention import CrossAttention, SelfAttention
from kept.models.encoder_decoder import Encoder, EncoderDecoderLM
from kept.models.layers import Embedding, LayerNorm, Linear, PostNorm
from kept.models.positions import make_positions
from kept.models.record import Record
from kept.models.seq2seq_config import Seq2SeqConfig
from kept.ops import Rope

NORM_EPS = 1e-5  # in transformers' classes, whatever config.json says


class FeedForward(nn.Module):
    """down(act(up(x)))."""

    def __init__(self, width: int, size: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.up, self.down = Linear(width, size, bias=True), Linear(size, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        out: Tensor = self.down(ops.activate(self.up(x), self.activation))
        return out


class Places(nn.Module):
    """What makes vectors of tokens those of tokens at their places; both sides have their own."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.first, width = config.positions_from, config.hidden_size
        self.table = make_positions(config.positions, config.context + self.first, width)
        self.norm = PostNorm(width, NORM_EPS) if config.embedding_norm else None

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: (N, E), positions: (N,) -> (N, E)."""
        x = self.table.add_to(x, positions + self.first)
        return x if self.norm is None else self.norm(x)


def _norm(config: Seq2SeqConfig, *, behind_all: bool = False) -> LayerNorm | None:
    """One of a block. behind_all: where norms stand behind, none comes after."""
    if config.norms_first:
        return LayerNorm(config.hidden_size, NORM_EPS)
    return None if behind_all else PostNorm(config.hidden_size, NORM_EPS)


def _sum(x: Tensor, norm: LayerNorm | None, f: Callable[[Tensor], Tensor]) -> Tensor:
    """A residual sum and its norm, where that stands."""
    if norm is not None and not isinstance(norm, PostNorm):
        return x + f(norm(x))
    x = x + f(x)
    return x if norm is None else norm(x)


class Seq2SeqEncoderBlock(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: Seq2SeqConfig, *, last: bool) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_encoder_heads
        head_dim = width // heads
        self.attention_norm, self.mlp_norm = _norm(config), _norm(config, behind_all=last)
        self.attention = SelfAttention(
            width, heads, head_dim, head_dim**-0.5, causal=False, biased=True
        )
        self.mlp = FeedForward(width, config.encoder_mlp_size, config.activation)

    def forward(self, x: Tensor, shared: None, store: LayerStore, record: Record) -> Tensor:
        """x: (M, E) -> (M, E)."""
        x = _sum(x, self.attention_norm, lambda y: self.attention(y, None, store, record))
        return _sum(x, self.mlp_norm, self.mlp)


class Seq2SeqDecoderBlock(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: Seq2SeqConfig, *, last: bool) -> None:
        super().__init__()
        width, heads, head_dim = config.hidden_size, config.num_heads, config.head_dim
        scale = head_dim**-0.5
        self.attention_norm, self.cross_norm = _norm(config), _norm(config)
        self.mlp_norm = _norm(config, behind_all=last)
        self.attention = SelfAttention(width, heads, head_dim, scale, causal=True, biased=True)
        self.cross = CrossAttention(width, heads, head_dim, scale, biased=True)
        self.mlp = FeedForward(width, config.mlp_size, config.activation)

    def forward(
        self,
        x: Tensor,
        shared: None,
        store: LayerStore,
        cross: LayerStore,
        states: Tensor | None,
        record: Record,
    ) -> Tensor:
        """x: (N, E) -> (N, E). states: see `CrossAttention`."""
        x = _sum(x, self.attention_norm, lambda y: self.attention(y, None, store, record))
        x = _sum(x, self.cross_norm, lambda y: self.cross(y, cross, states, record))
        return _sum(x, self.mlp_norm, self.mlp)


def _blocks(block: Callable[..., nn.Module], config: Seq2SeqConfig, count: int) -> nn.ModuleList:
    return nn.ModuleList(block(config, last=i == count - 1) for i in range(count))


class Seq2SeqEncoder(Encoder):
    """All of an input's tokens to vectors; stored nowhere."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        count, heads = config.num_encoder_layers, config.num_encoder_heads
        self.shapes = (KVShape(heads, config.hidden_size // heads),) * count
        self.places = Places(config)
        self.blocks = _blocks(Seq2SeqEncoderBlock, config, count)
        self.norm = LayerNorm(config.hidden_size, NORM_EPS)

    def shared(self) -> None:
        """Nothing."""


class Seq2Seq(EncoderDecoderLM):
    """Any encoder-decoder that a `Seq2SeqConfig` describes."""

    is_rotary = False
    config: Seq2SeqConfig
    encoder: Seq2SeqEncoder

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embedding = Embedding(config.vocab_size, width)
        self.encoder = Seq2SeqEncoder(config)
        self.places = Places(config)
        self.blocks = _blocks(Seq2SeqDecoderBlock, config, config.num_layers)
        self.norm = LayerNorm(width, NORM_EPS)
        self.head: Any = Linear(width, config.vocab_size, config.logit_bias)
        if config.tied:
            self.head.weight = self.embedding.weight

    def embed(self, batch: Batch) -> tuple[Tensor, Rope]:
        """Vectors (N, E) of tokens at their places."""
        x = self.embedding(batch.tokens, self.config.embedding_scale)
        return self.places(x, batch.positions), None

    def embed_input(self, batch: Batch) -> Tensor:
        """See `EncoderDecoderLM.embed_input`."""
        x = self.embedding(batch.tokens, self.config.embedding_scale)
        found: Tensor = self.encoder.places(x, batch.positions)
        return found

    def shared(self) -> None:
        """Nothing."""

    def check_input(self, length: int) -> None:
        """Raise ContextLengthError for an input that there are not enough positions for."""
        if length > self.config.context:
            raise ContextLengthError(
                f"the input has {length:,} tokens and this model has positions for "
                f"{self.config.context:,}; shorten it, or cut it into parts"
            )
        super().check_input(length)
