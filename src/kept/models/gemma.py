"""The Gemma family: Gemma, Gemma 2 and the text of Gemma 3.

Norms store their weights less one, embeddings are scaled by sqrt(E), and since Gemma 2 each half
of a block is normalised once more before its residual sum and layers alternate between a window
and the whole sequence. Gemma 2 caps scores and logits; Gemma 3 norms queries and keys instead, and
its windowed layers have a rotary base of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import LayerStore
from kept.models.causal_lm import CausalLM
from kept.models.gemma_config import GemmaConfig
from kept.models.layers import Embedding, Linear, ShiftedRMSNorm, attend
from kept.models.llama import LlamaMLP, attention_placements, mlp_placements
from kept.models.record import Record
from kept.models.rotaries import Rotaries
from kept.models.weight_map import Placement, WeightMap
from kept.ops import AttentionSpec, HeadSpec, Rope, RopeTables


class GemmaAttention(nn.Module):
    """Grouped-query attention; one matrix makes queries, keys and values."""

    def __init__(self, config: GemmaConfig, layer: int) -> None:
        super().__init__()
        heads, keys, width = config.num_heads, config.num_kv_heads, config.head_dim
        self.heads = HeadSpec(heads, keys, width, config.norm_eps)
        self.spec = AttentionSpec(
            config.scale, window=config.windows[layer], softcap=config.score_cap
        )
        self.base = config.bases[layer]
        self.qkv = Linear(config.hidden_size, (heads + 2 * keys) * width, config.qkv_bias)
        self.out = Linear(heads * width, config.hidden_size, config.out_bias)
        self.q_norm = ShiftedRMSNorm(width, config.norm_eps) if config.qk_norm else None
        self.k_norm = ShiftedRMSNorm(width, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, ropes: tuple[Rope, ...], store: LayerStore, record: Record
    ) -> Tensor:
        """x: (N, E) -> (N, E)."""
        norms = (None if n is None else n.factor for n in (self.q_norm, self.k_norm))
        q, k, v = ops.split_heads(self.qkv(x), self.heads, ropes[self.base], *norms)
        out: Tensor = self.out(attend(q, k, v, store, self.spec, record))
        return out


class GemmaBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each normed again before the sum if so."""

    def __init__(self, config: GemmaConfig, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        self.attention_norm = ShiftedRMSNorm(width, eps)
        self.attention = GemmaAttention(config, layer)
        self.attention_post_norm = ShiftedRMSNorm(width, eps) if config.post_norms else None
        self.mlp_norm = ShiftedRMSNorm(width, eps)
        self.mlp = LlamaMLP(config)
        self.mlp_post_norm = ShiftedRMSNorm(width, eps) if config.post_norms else None

    def forward(
        self, x: Tensor, ropes: tuple[Rope, ...], store: LayerStore, record: Record
    ) -> Tensor:
        """x: (N, E) -> (N, E)."""
        attended = self.attention(self.attention_norm(x), ropes, store, record)
        x = x + _normed(attended, self.attention_post_norm)
        return x + _normed(self.mlp(self.mlp_norm(x)), self.mlp_post_norm)


def _normed(x: Tensor, norm: ShiftedRMSNorm | None) -> Tensor:
    return x if norm is None else norm(x)


class Gemma(CausalLM):
    """A decoder of the Gemma family."""

    is_rotary = True
    norm: ShiftedRMSNorm

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__(config)
        self.logit_cap = config.logit_cap
        self.embedding_scale = config.hidden_size**0.5
        self.rotaries = Rotaries(config.ropes)
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(GemmaBlock(config, i) for i in range(config.num_layers))
        self.norm = ShiftedRMSNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight

    def embed(self, batch: Batch) -> tuple[Tensor, tuple[Rope, ...]]:
        """Token vectors (N, E) times sqrt(E), and the rotary tables of their positions."""
        # Rounded to the weights' dtype, as in training; norms keep theirs when matrices are packed.
        exact = torch.tensor(self.embedding_scale, dtype=torch.float32, device="cpu")
        scale = exact.to(self.norm.weight.dtype).item()
        return self.embedding(batch.tokens, scale), self.rotaries.tables(batch, self.dtype)

    @property
    def keys_follow_length(self) -> bool:
        """See `CausalLM.keys_follow_length`."""
        return self.rotaries.follow_length

    def rope_tables(self, batch: Batch) -> RopeTables:
        """See `CausalLM.rope_tables`."""
        return self.rotaries.halves(batch)

    def rope_ahead(self, lengths: Sequence[int]) -> RopeTables:
        """See `CausalLM.rope_ahead`."""
        return self.rotaries.ahead(lengths)

    def project(self, x: Tensor) -> Tensor:
        """See `CausalLM.project`; capped where the config says so."""
        logits = super().project(x)
        return logits if self.logit_cap is None else ops.soft_cap(logits, self.logit_cap)


def gemma_weight_map(config: GemmaConfig) -> WeightMap:
    """Where the tensors of a Gemma, Gemma 2 or Gemma 3 text checkpoint go."""
    return WeightMap(
        _placements(config, "model."),
        optional=frozenset({"lm_head.weight", "model.embed_tokens.weight"})
        if config.tied
        else frozenset(),
        ignored=(r"rotary_emb\.inv_freq$",),
        prefixes=("model.",),
    )


def gemma3_weight_map(config: GemmaConfig) -> WeightMap:
    """Where the text model's tensors of a Gemma 3 that also sees go; the rest is passed over."""
    return WeightMap(
        _placements(config, ""),
        optional=frozenset({"lm_head.weight", "embed_tokens.weight"})
        if config.tied
        else frozenset(),
        ignored=(r"(^|\.)vision_tower\.", r"(^|\.)multi_modal_projector\."),
        # As transformers 5 names them, and as it did before.
        prefixes=("model.language_model.", "language_model.model.", "language_model."),
    )


def _placements(config: GemmaConfig, prefix: str) -> dict[str, Placement]:
    width, vocabulary = ("hidden_size",), ("vocab_size", "hidden_size")
    found = {
        f"{prefix}embed_tokens.weight": Placement("embedding.weight", config_fields=vocabulary),
        f"{prefix}norm.weight": Placement("norm.weight", config_fields=width),
        "lm_head.weight": Placement("head.weight", config_fields=vocabulary),
    }
    norms = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
    if config.post_norms:
        norms |= {
            "post_attention_layernorm": "attention_post_norm",
            "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "mlp_post_norm",
        }
    for layer in range(config.num_layers):
        there, here = f"{prefix}layers.{layer}", f"blocks.{layer}"
        for stored, name in norms.items():
            found[f"{there}.{stored}.weight"] = Placement(
                f"{here}.{name}.weight", config_fields=width
            )
        found |= attention_placements(config, f"{there}.self_attn", f"{here}.attention")
        found |= mlp_placements(config, f"{there}.mlp", f"{here}.mlp")
    return found
