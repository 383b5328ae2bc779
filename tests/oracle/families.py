"""Checkpoints of the families that a `DecoderConfig` describes, as the zoo has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Exaone4Config,
    Exaone4ForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from .sizes import DYNAMIC_CONTEXT, LLAMA, THREE, longrope, yarn

MODELS: Mapping[str, tuple[type[PreTrainedModel], Any, Mapping[str, Any]]] = {
    "cohere": (CohereForCausalLM, CohereConfig, {**LLAMA, "pad_token_id": None}),
    "cohere2": (
        Cohere2ForCausalLM,
        Cohere2Config,
        {**THREE, "sliding_window": 7, "sliding_window_pattern": 2, "pad_token_id": None},
    ),
    "exaone4": (
        Exaone4ForCausalLM,
        Exaone4Config,
        {**THREE, "sliding_window": 7, "sliding_window_pattern": 2},
    ),
    "glm": (GlmForCausalLM, GlmConfig, {**LLAMA, "head_dim": 12, "pad_token_id": None}),
    "glm4": (Glm4ForCausalLM, Glm4Config, {**LLAMA, "head_dim": 12, "pad_token_id": None}),
    "granite": (
        GraniteForCausalLM,
        GraniteConfig,
        {
            **LLAMA,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.6,
            "logits_scaling": 1.7,
        },
    ),
    "olmo": (OlmoForCausalLM, OlmoConfig, {**LLAMA, "pad_token_id": None}),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {**LLAMA, "pad_token_id": None}),
    "olmo3": (
        Olmo3ForCausalLM,
        Olmo3Config,
        {**THREE, "sliding_window": 7, "pad_token_id": None},
    ),
    "phi": (PhiForCausalLM, PhiConfig, LLAMA),
    "phi3": (Phi3ForCausalLM, Phi3Config, {**LLAMA, "pad_token_id": None}),
    "smollm3": (
        SmolLM3ForCausalLM,
        SmolLM3Config,
        {**THREE, "no_rope_layer_interval": 2, "pad_token_id": None},
    ),
    "stablelm": (StableLmForCausalLM, StableLmConfig, {**LLAMA, "partial_rotary_factor": 0.5}),
    "starcoder2": (Starcoder2ForCausalLM, Starcoder2Config, LLAMA),
}
# The first of a family has its name; the others are what its configs can ask for besides.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "cohere": {"logit_scale": 2.0},
    "cohere norms": {"use_qk_norm": True, "attention_bias": True, "logit_scale": 1.5},
    "cohere2": {"logit_scale": 2.0},
    "exaone4": {},
    "exaone4 no window": {
        "sliding_window": None,
        "layer_types": ["full_attention"] * 3,
        "tie_word_embeddings": True,
    },
    "glm": {},
    "glm4": {},
    "granite": {"attention_bias": True},
    "olmo": {},
    "olmo2": {},
    "olmo3": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {**yarn()["rope_parameters"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    "phi": {},
    "phi3": {},
    "phi3 window": {"sliding_window": 7},
    "phi3 partial": {"partial_rotary_factor": 0.5, "tie_word_embeddings": True},
    "phi3 long": {
        "original_max_position_embeddings": DYNAMIC_CONTEXT,
        **longrope(4),
    },
    "smollm3": {},
    "stablelm": {"use_qkv_bias": True, "num_key_value_heads": 2},
    "stablelm beside": {"use_parallel_residual": True},
    "starcoder2": {"sliding_window": 7},
}
FIRST = [name for name in FAMILIES if " " not in name]
