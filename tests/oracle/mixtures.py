"""Checkpoints of mixtures of experts, as the zoo has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from .sizes import LLAMA, THREE, rope

_EXPERTS = {**THREE, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
MIXTURE_MODELS: Mapping[str, tuple[type[PreTrainedModel], Any, Mapping[str, Any]]] = {
    "gpt_oss": (
        GptOssForCausalLM,
        GptOssConfig,
        {**THREE, "head_dim": 8, "num_local_experts": 5, "num_experts_per_tok": 2}
        | {"sliding_window": 7},
    ),
    "mixtral": (MixtralForCausalLM, MixtralConfig, {**LLAMA, "num_local_experts": 5}),
    "olmoe": (
        OlmoeForCausalLM,
        OlmoeConfig,
        {**LLAMA, "num_experts": 6, "num_experts_per_tok": 3, "pad_token_id": None},
    ),
    "qwen2_moe": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig,
        {**_EXPERTS, "shared_expert_intermediate_size": 40},
    ),
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig, _EXPERTS),
}

MIXTURES: Mapping[str, Mapping[str, Any]] = {
    "gpt_oss": {},
    "gpt_oss layer types": {
        "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        "attention_bias": False,
        "num_experts_per_tok": 5,
        **rope("linear", factor=2.5),
    },
    "mixtral": {},
    "mixtral window": {"sliding_window": 7, "num_experts_per_tok": 1, "num_local_experts": 2},
    "olmoe": {},
    "olmoe bias": {"attention_bias": True, "norm_topk_prob": True, "num_key_value_heads": 6},
    "qwen2_moe": {},
    "qwen2_moe window": {
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 2,
        "norm_topk_prob": True,
        "qkv_bias": False,
    },
    "qwen2_moe layer types": {
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "mlp_only_layers": [0, 2],
    },
    "qwen3_moe": {"norm_topk_prob": True, "head_dim": 16},
    "qwen3_moe sparse": {"decoder_sparse_step": 2, "mlp_only_layers": [2], "attention_bias": True},
    "qwen3_moe all": {"num_experts_per_tok": 6, "use_sliding_window": True, "sliding_window": 4},
}
