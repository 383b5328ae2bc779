"""OLMoE: a Llama with experts, whose queries and keys are normalised over all heads together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kept import ops
from kept.cache import LayerStore
from kept.models.experts import ExpertsConfig
from kept.models.fields import Fields
from kept.models.layers import RMSNorm, attend
from kept.models.llama import LlamaAttention, read_llama_config
from kept.models.mixture import Mixture, qwen_moe_weight_map
from kept.models.mixture_config import MixtureConfig, num_experts, read_top_k
from kept.models.record import Record
from kept.models.weight_map import Placement, WeightMap
from kept.ops import Rope, Routing

# What transformers' class takes for fields that config.json leaves out.
_DEFAULTS = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}


def read_olmoe_config(config: dict[str, Any]) -> MixtureConfig:
    """Read config.json of model type olmoe."""
    of = Fields({**_DEFAULTS, **config})
    of.refuse("clip_qkv", None, "it does not clip queries, keys and values")
    llama = read_llama_config({**_DEFAULTS, **config, "model_type": "llama"})
    count = num_experts(of, 64)
    experts = ExpertsConfig(
        num_experts=count,
        size=llama.mlp_size,
        routing=Routing(read_top_k(of, count, 8), of.flag("norm_topk_prob", False)),
        activation=llama.activation,
    )
    return MixtureConfig(**vars(llama), experts=experts, dense=frozenset())


class OlmoeAttention(LlamaAttention):
    """Grouped-query attention with norms over all heads of queries, and of keys."""

    def __init__(self, config: MixtureConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.q_norm = RMSNorm(config.num_heads * config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.num_kv_heads * config.head_dim, config.norm_eps)

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        assert self.q_norm is not None
        assert self.k_norm is not None
        weights = self.q_norm.weight, self.k_norm.weight
        qkv = ops.norm_parts(self.qkv(x), weights, self.q_norm.eps)
        q, k, v = ops.split_heads(qkv, self.heads, rope)
        out: Tensor = self.out(attend(q, k, v, store, self.spec, record))
        return out


class Olmoe(Mixture):
    """A decoder of the OLMoE family."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__(config)
        for layer, block in enumerate(self.blocks):
            block.attention = OlmoeAttention(config, layer)


def olmoe_weight_map(config: MixtureConfig) -> WeightMap:
    """Where the tensors of an OLMoE go."""
    plain = qwen_moe_weight_map(config)
    fields = ("num_attention_heads", "num_key_value_heads", "hidden_size")
    norms = {
        f"model.layers.{layer}.self_attn.{name}.weight": Placement(
            f"blocks.{layer}.attention.{name}.weight", config_fields=fields
        )
        for layer in range(config.num_layers)
        for name in ("q_norm", "k_norm")
    }
    placements = {**plain.placements, **norms}
    return WeightMap(placements, plain.optional, plain.ignored, plain.prefixes)
