"""gpt-oss: experts with clamped gates, attention that may attend nothing, and every other layer a
window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from kept import ops
from kept.cache import LayerStore
from kept.models.experts import ExpertsConfig
from kept.models.fields import Fields
from kept.models.layers import attend, parameter
from kept.models.llama import (
    LAYER_TYPES,
    LlamaAttention,
    LlamaConfig,
    llama_weight_map,
    read_llama_config,
)
from kept.models.mixture import Mixture, expert_placements
from kept.models.mixture_config import MixtureConfig, num_experts, read_top_k
from kept.models.record import Record
from kept.models.stacked_experts import ExpertNames
from kept.models.weight_map import Placement, WeightMap
from kept.ops import CLAMPED_SWIGLU, Rope, Routing

GPT_OSS_NAMES = ExpertNames(turned=True)
# What transformers' class takes for fields that config.json leaves out.
_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "attention_bias": True,
}
_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read_gpt_oss_config(config: dict[str, Any]) -> MixtureConfig:
    """Read config.json of model type gpt_oss."""
    given = {**_DEFAULTS, **config, "model_type": "llama"}
    of = Fields(given)
    if not of.has("rope_scaling") and not of.has("rope_parameters"):
        given["rope_parameters"] = _ROPE
    trained = "the bounds it was trained with are part of the kernels"
    of.refuse("swiglu_alpha", 1.702, trained)
    of.refuse("swiglu_limit", 7.0, trained)
    llama = read_llama_config(given)
    experts = ExpertsConfig(
        num_experts=num_experts(of, 128),
        size=llama.mlp_size,
        routing=Routing(read_top_k(of, num_experts(of, 128), 4), normalised=True),
        activation=CLAMPED_SWIGLU,
        biased=True,
    )
    return MixtureConfig(
        **{**vars(llama), "windows": _windows(of, llama)}, experts=experts, dense=frozenset()
    )


def _windows(of: Fields, llama: LlamaConfig) -> tuple[int | None, ...]:
    none = of.given("sliding_window") and not of.has("sliding_window")
    window = None if none else of.integer("sliding_window", 128)
    types = of.strings("layer_types", llama.num_layers, choices=LAYER_TYPES)
    if types is not None:
        return tuple(window if t == "sliding_attention" else None for t in types)
    return tuple(None if i % 2 else window for i in range(llama.num_layers))


class GptOssAttention(LlamaAttention):
    """Grouped-query attention, some of which each head may give to nothing."""

    def __init__(self, config: MixtureConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.idle = parameter(config.num_heads)

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        q, k, v = ops.split_heads(self.qkv(x), self.heads, rope)
        spec = replace(self.spec, idle=self.idle)
        out: Tensor = self.out(attend(q, k, v, store, spec, record))
        return out


class GptOss(Mixture):
    """A decoder of the gpt-oss family."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__(config)
        for layer, block in enumerate(self.blocks):
            block.attention = GptOssAttention(config, layer)


def gpt_oss_weight_map(config: MixtureConfig) -> WeightMap:
    """Where the tensors of a gpt-oss go, once its experts stand apart."""
    llama = llama_weight_map(config)
    placements = {k: v for k, v in llama.placements.items() if ".mlp." not in k}
    router_fields = ("num_local_experts", "hidden_size")
    for layer in range(config.num_layers):
        there, here = f"model.layers.{layer}", f"blocks.{layer}"
        placements[f"{there}.self_attn.sinks"] = Placement(
            f"{here}.attention.idle", config_fields=("num_attention_heads",)
        )
        for kind in ("weight", "bias"):
            placements[f"{there}.mlp.router.{kind}"] = Placement(
                f"{here}.mlp.router.{kind}", config_fields=router_fields
            )
        for number in range(config.experts.num_experts):
            of = f"mlp.experts.{number}"
            placements |= expert_placements(
                f"{there}.{of}", f"{here}.{of}", GPT_OSS_NAMES.parts, config.experts,
                "intermediate_size",
            )  # fmt: skip
    return WeightMap(placements, llama.optional, llama.ignored, llama.prefixes)
