"""Checkpoints of latent attention, as `families.py` has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    PreTrainedModel,
)

from .sizes import THREE, yarn

_LATENT = {
    **THREE,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 12,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "pad_token_id": None,
}
LATENT_MODELS: Mapping[str, tuple[type[PreTrainedModel], Any, Mapping[str, Any]]] = {
    "deepseek_v2": (
        DeepseekV2ForCausalLM,
        DeepseekV2Config,
        {**_LATENT, "n_shared_experts": 2, "q_lora_rank": None},
    ),
    "deepseek_v3": (
        DeepseekV3ForCausalLM,
        DeepseekV3Config,
        {**_LATENT, "n_shared_experts": 1, "n_group": 4, "topk_group": 2},
    ),
}
LATENTS: Mapping[str, Mapping[str, Any]] = {
    "deepseek_v2": {},
    "deepseek_v2 groups": {
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "q_lora_rank": 40,
        "routed_scaling_factor": 1.6,
        "attention_bias": True,
        "first_k_dense_replace": 0,
        "rms_norm_eps": 1e-2,  # not of the latents' norms
        **yarn(mscale=0.7, mscale_all_dim=0.9),
    },
    "deepseek_v3": {**yarn(mscale=1.0, mscale_all_dim=1.0)},
    "deepseek_v3 plain": {
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": None,
        "norm_topk_prob": False,
        "rope_interleave": False,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
}
