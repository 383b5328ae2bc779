"""The text of Gemma 4.

A block norms before and behind attention and MLP. Values are normed too, and in some models are
the keys before their norm. The last layers attend what earlier ones store, and each layer may add
something of the token itself, from a table of its own (per-layer embeddings):

    x + norm(projection(act(gate(x)) * input))        then the stream is scaled by a weight
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import LayerStore
from kept.models.causal_lm import CausalLM
from kept.models.gemma4_config import Gemma4Config, Gemma4Layer
from kept.models.layers import Embedding, Linear, WideRMSNorm, attend, attend_shared
from kept.models.record import Record
from kept.models.rotaries import Rotaries
from kept.ops import AttentionSpec, HeadSpec, Rope, RopeTables

# The rotary tables of both kinds of layers, and what layers take of the tokens (N, L * P).
Seen = tuple[tuple[Rope, ...], Tensor | None]


class Gemma4Attention(nn.Module):
    """Grouped-query attention over keys of its own or of another layer."""

    def __init__(self, config: Gemma4Config, layer: Gemma4Layer) -> None:
        super().__init__()
        heads, keys, width = config.num_heads, layer.num_kv_heads, layer.width
        self.heads = HeadSpec(heads, keys, width, config.norm_eps)
        self.spec = AttentionSpec(1.0, window=layer.window)
        self.turn = layer.turn
        reads = layer.shares is not None
        made = heads if reads else heads + 2 * keys
        self.qkv = Linear(config.hidden_size, made * width, config.bias)
        self.out = Linear(heads * width, config.hidden_size, config.bias)
        self.q_norm = WideRMSNorm(width, config.norm_eps)
        self.k_norm = None if reads else WideRMSNorm(width, config.norm_eps)

    def forward(
        self, x: Tensor, ropes: tuple[Rope, ...], store: LayerStore, record: Record
    ) -> Tensor:
        """x: (N, E) -> (N, E)."""
        q_norm, rope = self.q_norm.factor, ropes[self.turn]
        if self.k_norm is None:
            q = ops.split_queries(self.qkv(x), self.heads, rope, q_norm)
            found: Tensor = self.out(attend_shared(q, store, self.spec, record))
            return found
        plain = torch.ones_like(q_norm)
        k_norm = self.k_norm.factor
        q, k, v = ops.split_heads(self.qkv(x), self.heads, rope, q_norm, k_norm, plain)
        out: Tensor = self.out(attend(q, k, v, store, self.spec, record))
        return out


class Gemma4MLP(nn.Module):
    """down(act(gate(x)) * up(x)); one matrix makes gate and up."""

    def __init__(self, config: Gemma4Config, size: int) -> None:
        super().__init__()
        self.activation = config.activation
        self.gate_up = Linear(config.hidden_size, 2 * size, bias=False, gated=True)
        self.down = Linear(size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        out: Tensor = self.down(ops.gated(self.gate_up(x), self.activation))
        return out


class LayerInput(nn.Module):
    """norm(projection(act(gate(x)) * input)), of the token's vector for a layer."""

    def __init__(self, config: Gemma4Config, begin: int) -> None:
        super().__init__()
        self.activation, self.begin = config.activation, begin
        self.gate = Linear(config.hidden_size, config.input_size, bias=False)
        self.projection = Linear(config.input_size, config.hidden_size, bias=False)
        self.norm = WideRMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, inputs: Tensor) -> Tensor:
        """x: (N, E), inputs: (N, L * P) -> (N, E)."""
        gates = ops.activate(self.gate(x), self.activation)
        out: Tensor = self.norm(self.projection(ops.times(gates, inputs, self.begin)))
        return out


class Gemma4Block(nn.Module):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x))), then what is the token's."""

    def __init__(self, config: Gemma4Config, index: int) -> None:
        super().__init__()
        width, eps, layer = config.hidden_size, config.norm_eps, config.layers[index]
        self.attention_norm, self.attention_post_norm = (
            WideRMSNorm(width, eps),
            WideRMSNorm(width, eps),
        )
        self.attention = Gemma4Attention(config, layer)
        self.mlp_norm, self.mlp_post_norm = WideRMSNorm(width, eps), WideRMSNorm(width, eps)
        self.mlp = Gemma4MLP(config, layer.mlp_size)
        begin = index * config.input_size
        self.layer_input = LayerInput(config, begin) if config.input_size else None
        self.scale = nn.Parameter(torch.empty(1, dtype=torch.float32, device="meta"))

    def forward(self, x: Tensor, seen: Seen, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        ropes, inputs = seen
        attended = self.attention(self.attention_norm(x), ropes, store, record)
        x = x + self.attention_post_norm(attended)
        x = x + self.mlp_post_norm(self.mlp(self.mlp_norm(x)))
        if self.layer_input is not None:
            x = x + self.layer_input(x, inputs)
        return ops.scaled(x, self.scale)


class Gemma4(CausalLM):
    """The text model of a Gemma 4."""

    is_rotary = True
    config: Gemma4Config
    norm: WideRMSNorm

    def __init__(self, config: Gemma4Config) -> None:
        super().__init__(config)
        self.rotaries = Rotaries(config.ropes)
        width, count = config.hidden_size, config.num_layers * config.input_size
        self.embedding = Embedding(config.vocab_size, width)
        # Tokens that the table ends before have its first vector.
        others_first = config.input_vocab < config.vocab_size
        self.inputs = (
            Embedding(config.input_vocab, count, others_first=others_first) if count else None
        )
        self.inputs_projection = Linear(width, count, bias=False) if count else None
        self.inputs_norm = WideRMSNorm(config.input_size, config.norm_eps) if count else None
        self.blocks = nn.ModuleList(self._make_block(i) for i in range(config.num_layers))
        self.norm = WideRMSNorm(width, config.norm_eps)
        self.head = Linear(width, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight

    def _make_block(self, index: int) -> nn.Module:
        return Gemma4Block(self.config, index)

    @property
    def tables(self) -> tuple[nn.Module, ...]:
        """See `CausalLM.tables`."""
        return (self.embedding,) if self.inputs is None else (self.embedding, self.inputs)

    def embed(self, batch: Batch) -> tuple[Tensor, Seen]:  # type: ignore[override]
        """Token vectors (N, E) times sqrt(E), the rotary tables, and what layers take of tokens."""
        x = self.embedding(batch.tokens, self._rounded(self.config.hidden_size**0.5))
        ropes = self.rotaries.tables(batch, self.dtype)
        if self.inputs is None:
            return x, (ropes, None)
        assert self.inputs_projection is not None
        assert self.inputs_norm is not None
        half = 2.0**-0.5
        found = self.inputs(batch.tokens, self._rounded(self.config.input_size**0.5) * half)
        made = self.inputs_projection(x) * self.config.hidden_size**-0.5
        weights = [self.inputs_norm.factor * half] * self.config.num_layers
        return x, (ropes, found + ops.norm_parts(made, weights, self.config.norm_eps))

    def _rounded(self, scale: float) -> float:
        """To the weights' dtype, as in training; norms keep theirs when matrices are packed."""
        exact = torch.tensor(scale, dtype=torch.float32, device="cpu")
        return exact.to(self.norm.weight.dtype).item()

    def rope_tables(self, batch: Batch) -> RopeTables:
        """See `CausalLM.rope_tables`."""
        return self.rotaries.halves(batch)

    def rope_ahead(self, lengths: Sequence[int]) -> RopeTables:
        """See `CausalLM.rope_ahead`."""
        return self.rotaries.ahead(lengths)

    def project(self, x: Tensor) -> Tensor:
        """See `CausalLM.project`; capped where the config says so."""
        logits, cap = super().project(x), self.config.logit_cap
        return logits if cap is None else ops.soft_cap(logits, cap)
