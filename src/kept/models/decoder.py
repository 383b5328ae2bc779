"""A decoder by its parts: what a `DecoderConfig` describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import LayerStore
from kept.models.causal_lm import CausalLM
from kept.models.decoder_config import DecoderConfig, HeadNorm, NormKind, Order
from kept.models.layers import Embedding, LayerNorm, Linear, PlainNorm, PostNorm, RMSNorm, attend
from kept.models.record import Record
from kept.models.rotaries import Rotaries
from kept.ops import AttentionSpec, HeadSpec, LinearBias, Rope, RopeTables

# The rotary tables of each embedding, and what scores take on by distance.
Places = tuple[tuple[Rope, ...], LinearBias | None]


def make_norm(kind: NormKind, width: int, eps: float) -> nn.Module:
    """A norm of rows of `width` numbers."""
    if kind == "rms":
        return RMSNorm(width, eps)
    if kind == "plain":
        return PlainNorm(eps)
    return LayerNorm(width, eps, bias=kind == "layer")


class HeadNormWeight(nn.Module):
    """The weights of a norm of heads, which `ops.split_heads` takes."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.float32, device="meta"))


class Attention(nn.Module):
    """Grouped-query attention; one matrix makes queries, keys and values."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        heads, keys, width = config.num_heads, config.num_kv_heads, config.head_dim
        self.heads = HeadSpec(
            heads,
            keys,
            width,
            config.norm_eps,
            centred=config.head_norm_kind != "rms",
            neighbours=config.neighbours,
        )
        self.spec = AttentionSpec(config.scale, window=config.windows[layer])
        self.turn = config.turns[layer] if config.turns else None
        self.over_all = config.head_norm == "all"
        self.qkv = Linear(config.hidden_size, (heads + 2 * keys) * width, config.qkv_bias)
        self.out = Linear(heads * width, config.hidden_size, config.out_bias)
        self.q_norm = self.k_norm = None
        if config.head_norm is not None:
            self.q_norm = HeadNormWeight(*_head_norm_size(config.head_norm, heads, width))
            self.k_norm = HeadNormWeight(*_head_norm_size(config.head_norm, keys, width))

    def forward(self, x: Tensor, places: Places, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        ropes, bias = places
        norms = [n.weight for n in (self.q_norm, self.k_norm) if n is not None]
        qkv = self.qkv(x)
        if norms and self.over_all:
            qkv, norms = ops.norm_parts(qkv, norms, self.heads.norm_eps), []
        rope = None if self.turn is None else ropes[self.turn]
        q, k, v = ops.split_heads(qkv, self.heads, rope, *norms)
        out: Tensor = self.out(attend(q, k, v, store, self.spec, record, bias))
        return out


def _head_norm_size(kind: HeadNorm, heads: int, width: int) -> tuple[int, ...]:
    return {"head": (width,), "own": (heads, width), "all": (heads * width,)}[kind]


class MLP(nn.Module):
    """down(act(up(x))), or with gates down(act(gate(x)) * up(x)); one matrix makes both."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        width, size, bias = config.hidden_size, config.mlp_size, config.mlp_bias
        self.up = Linear(width, (2 if self.gated else 1) * size, bias, gated=self.gated)
        self.down = Linear(size, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        act = ops.gated if self.gated else ops.activate
        out: Tensor = self.down(act(self.up(x), self.activation))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); norms stand before, behind or around both."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        before, behind = config.order != "after", config.order in ("after", "around")

        def norm(there: bool) -> nn.Module | None:
            return make_norm(config.norm, config.hidden_size, config.norm_eps) if there else None

        self.scale = config.residual_scale
        self.attention_norm, self.mlp_norm = norm(before), norm(before)
        self.attention, self.mlp = Attention(config, layer), MLP(config)
        self.attention_post_norm, self.mlp_post_norm = norm(behind), norm(behind)

    def forward(self, x: Tensor, places: Places, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        attended = self.attention(_normed(x, self.attention_norm), places, store, record)
        x = x + _scaled(_normed(attended, self.attention_post_norm), self.scale)
        made = self.mlp(_normed(x, self.mlp_norm))
        return x + _scaled(_normed(made, self.mlp_post_norm), self.scale)


class ParallelBlock(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)), with one norm for both or one each."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        kind, width, eps = config.norm, config.hidden_size, config.norm_eps
        self.attention_norm = make_norm(kind, width, eps)
        apart = config.order == "beside apart"
        self.mlp_norm = make_norm(kind, width, eps) if apart else None
        self.attention, self.mlp = Attention(config, layer), MLP(config)

    def forward(self, x: Tensor, places: Places, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        normed = self.attention_norm(x)
        also = normed if self.mlp_norm is None else self.mlp_norm(x)
        x = x + self.attention(normed, places, store, record)
        out: Tensor = x + self.mlp(also)
        return out


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)).

    The norm behind the last block's MLP is what others have behind all blocks, and is kept there.
    """

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        size = config.hidden_size, config.norm_eps
        self.attention, self.mlp = Attention(config, layer), MLP(config)
        self.attention_norm = PostNorm(*size)
        self.mlp_norm = None if layer == config.num_layers - 1 else PostNorm(*size)

    def forward(self, x: Tensor, places: Places, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        x = self.attention_norm(x + self.attention(x, places, store, record))
        return _normed(x + self.mlp(x), self.mlp_norm)


_BLOCKS: Mapping[Order, Callable[[DecoderConfig, int], nn.Module]] = {
    "beside": ParallelBlock, "beside apart": ParallelBlock, "behind sums": PostNormBlock,
}  # fmt: skip


def _normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    return x if norm is None else norm(x)


def _scaled(x: Tensor, by: float) -> Tensor:
    return x if by == 1 else x * by


class Decoder(CausalLM):
    """Any decoder that a `DecoderConfig` describes."""

    config: DecoderConfig

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.rotaries = Rotaries(config.ropes) if config.ropes else None
        width, eps = config.hidden_size, config.norm_eps
        words = config.word_size or width
        self.embedding = Embedding(config.vocab_size, words)
        # What is projected is added to positions, which lie where the residual stream begins.
        self.project_in = self.project_out = self.blank = None
        if config.word_size is not None:
            self.project_in, self.project_out = (
                Linear(words, width, False),
                Linear(width, words, False),
            )
            self.blank = Embedding(1, width, others_first=True)
        first = config.positions_from
        self.positions = None if first is None else Embedding(config.context + first, width)
        self.embedding_norm = make_norm(config.norm, width, eps) if config.embedding_norm else None
        block = _BLOCKS.get(config.order, Block)
        self.blocks = nn.ModuleList(block(config, i) for i in range(config.num_layers))
        self.norm = make_norm(config.norm, width, eps)
        self.head = Linear(words, config.vocab_size, config.head_bias)
        if config.tied:
            self.head.weight = self.embedding.weight

    @property
    def tables(self) -> tuple[nn.Module, ...]:
        """See `CausalLM.tables`."""
        return (self.embedding,) if self.blank is None else (self.embedding, self.blank)

    @property
    def is_rotary(self) -> bool:  # type: ignore[override]
        """See `CausalLM`; whether there is no table of positions that ends."""
        return self.config.positions_from is None

    @property
    def not_evicting(self) -> str | None:  # type: ignore[override]
        """See `CausalLM`."""
        if not self.config.slopes:
            return None
        return (
            "the model's scores depend on how far apart tokens are, and an evicting cache closes "
            "the gaps of those that leave"
        )

    def embed(self, batch: Batch) -> tuple[Tensor, Places]:  # type: ignore[override]
        """Token vectors (N, E), and what blocks need to know of their places."""
        config = self.config
        x = (self.blank or self.embedding)(batch.tokens, config.embedding_scale)
        if self.positions is not None:
            assert config.positions_from is not None
            x = x + self.positions(batch.positions + config.positions_from)
        if self.project_in is not None:
            x = x + self.project_in(self.embedding(batch.tokens))
        x = _normed(x, self.embedding_norm)
        ropes = () if self.rotaries is None else self.rotaries.tables(batch, self.dtype)
        return x, (ropes, self._bias())

    def _bias(self) -> LinearBias | None:
        if not self.config.slopes:
            return None
        return LinearBias(torch.tensor(self.config.slopes, dtype=torch.float32, device=self.device))

    @property
    def keys_follow_length(self) -> bool:
        """See `CausalLM.keys_follow_length`."""
        return self.rotaries is not None and self.rotaries.follow_length

    @property
    def reread_at(self) -> int | None:
        """See `CausalLM.reread_at`."""
        return None if self.rotaries is None else self.rotaries.reread_at

    def rope_tables(self, batch: Batch) -> RopeTables | None:
        """See `CausalLM.rope_tables`."""
        return None if self.rotaries is None else self.rotaries.halves(batch)

    def rope_ahead(self, lengths: Sequence[int]) -> RopeTables | None:
        """See `CausalLM.rope_ahead`."""
        return None if self.rotaries is None else self.rotaries.ahead(lengths)

    def project(self, x: Tensor) -> Tensor:
        """See `CausalLM.project`; scaled where the config says so."""
        if self.project_out is not None:
            x = self.project_out(x)
        return _scaled(super().project(x), self.config.logit_scale)
