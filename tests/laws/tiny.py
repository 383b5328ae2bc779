"""Tiny models of odd sizes with random weights, packed for the native kernels in any format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kept.models import CausalLM, build_model
from kept.ops import (
    KVDtype,
    PackedMatrix,
    find_kv_codec,
    pack_grouped,
    pack_int4,
    pack_int8,
    pack_matrix,
)
from kept.ops.activations import Activations

VOCAB = 97
CONTEXT = 2400
FORMATS = ("fp32", "bf16", "int8", "int4")

_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "max_position_embeddings": CONTEXT,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "gemma2": {
        **_LLAMA,
        "model_type": "gemma2",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "sliding_window": 9,
        "query_pre_attn_scalar": 10,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": True,
    },
    "gemma3": {
        **_LLAMA,
        "model_type": "gemma3_text",
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "sliding_window": 70,
        "sliding_window_pattern": 2,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "n_embd": 40,
        "n_head": 8,  # of 5
        "n_layer": 2,
        "n_inner": 50,
        "n_positions": CONTEXT,
    },
    "gpt_oss": {
        **_LLAMA,
        "model_type": "gpt_oss",
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "sliding_window": 9,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
    },
    "llama": {
        **_LLAMA,
        "model_type": "llama",
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "tie_word_embeddings": True,
    },
    "mistral": {
        **_LLAMA,
        "model_type": "mistral",
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "sliding_window": 9,
    },
    "qwen2_moe": {
        **_LLAMA,
        "model_type": "qwen2_moe",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "mlp_only_layers": [0],
    },
    "qwen3": {
        **_LLAMA,
        "model_type": "qwen3",
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 20,
        "use_sliding_window": True,
        "sliding_window": 70,
        "max_window_layers": 1,
    },
}
# What other families' blocks are made of: neighbours that turn, layers that do not, one norm for
# attention and MLP; norms behind these and over all heads; and a bias by distance over keys that no
# heads share; layers that attend what others store, and take something of the token; latents that
# all heads attend.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "cohere2": {
        **_LLAMA,
        "model_type": "cohere2",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 9,
        "sliding_window_pattern": 2,
        "tie_word_embeddings": True,
    },
    "gemma3n": {
        **_LLAMA,
        "model_type": "gemma3n_text",
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "sliding_window": 70,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "hidden_size_per_layer_input": 9,
        "vocab_size_per_layer_input": VOCAB - 20,
        "laurel_rank": 5,
        "activation_sparsity_pattern": [0.7, 0.0, 0.0],
        "tie_word_embeddings": True,
    },
    "deepseek_v3": {
        **_LLAMA,
        "model_type": "deepseek_v3",
        "num_attention_heads": 3,
        "q_lora_rank": 24,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 20,
        "v_head_dim": 32,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 24,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "n_group": 3,
        "topk_group": 2,
    },
    "gemma4": {
        **_LLAMA,
        "model_type": "gemma4_text",
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "global_head_dim": 20,
        "attention_k_eq_v": True,
        "sliding_window": 70,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "hidden_size_per_layer_input": 9,
        "vocab_size_per_layer_input": VOCAB,
        "tie_word_embeddings": True,
    },
    "olmo3": {
        **_LLAMA,
        "model_type": "olmo3",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 70,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "bloom": {
        "model_type": "bloom",
        "vocab_size": VOCAB,
        "hidden_size": 40,
        "n_head": 5,
        "n_layer": 2,
        "tie_word_embeddings": True,
    },
}
# Served beside the others: whose keys depend on how long a text is, and whose last token is no
# number.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "dynamic": {
        **CONFIGS["llama"],
        "max_position_embeddings": 80,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 8.0},
    },
    "longrope": {
        **CONFIGS["llama"],
        "original_max_position_embeddings": 80,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1000.0,
            "short_factor": [1.0] * 6,
            "long_factor": [1.0 + i for i in range(6)],
        },
    },
    "poisoned": CONFIGS["mistral"],
}


def codec_for(model: CausalLM, codec: KVDtype | None) -> KVDtype | None:
    """A codec, or the one of keys where a model stores values with them."""
    if codec is None or not any(shape.values_in_keys for shape in model.kv_shapes):
        return codec
    return find_kv_codec(codec).pair[0]


def pack_as(
    format: str, weight: Tensor, *, gated: bool = False, bias: Tensor | None = None
) -> PackedMatrix:
    """A matrix near `weight`, packed; `unpack()` says which it is."""
    if format in ("fp32", "bf16"):
        return pack_matrix(weight, format, gated=gated, bias=bias)
    weight = weight.detach().float()
    if format == "int8":
        scales = (weight.abs().amax(1) / 127).clamp(min=1e-30)
        codes = (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
        return pack_int8(codes, scales, gated=gated, bias=bias)
    groups = F.pad(weight, (0, -weight.shape[1] % 32)).unflatten(1, (-1, 32))
    if format in ("q8_0", "q4_0"):
        top = 127 if format == "q8_0" else 7
        halves = (groups.abs().amax(2) / top).clamp(min=1e-6).half()
        whole = (groups / halves.float()[:, :, None]).round().clamp(-top - 1, top)
        whole = whole.clamp(min=-127).flatten(1)[:, : weight.shape[1]]
        stored = whole.to(torch.int8) if format == "q8_0" else (whole + 8).to(torch.uint8)
        return pack_grouped(format, stored, halves, gated=gated, bias=bias)
    scale = (groups.abs().amax(2) / 7).clamp(min=1e-30).bfloat16()
    levels = (groups / scale.float()[:, :, None]).round().clamp(-8, 7) + 8
    codes = levels.flatten(1)[:, : weight.shape[1]].to(torch.uint8)
    return pack_int4(codes, scale, gated=gated, bias=bias)


def plain_model(name: str, dtype: torch.dtype) -> CausalLM:
    """A model that runs on torch, the same weights every time."""
    config = {**CONFIGS, **FAMILIES, **VARIANTS}[name]
    model = build_model(config).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            is_factor = "norm" in parameter_name and parameter_name.endswith("weight")
            # Which most of theirs are stored.
            less_one = "gemma" in name and name not in ("gemma3n", "gemma4")
            is_factor |= parameter_name.endswith(".scale")
            centre = 1.0 if is_factor and not less_one else 0.0
            parameter.copy_(centre + 0.25 * torch.randn(parameter.shape, generator=generator))
        if name == "poisoned":
            model.embedding.weight[VOCAB - 1] = torch.nan
    if config.get("tie_word_embeddings", config["model_type"] == "gpt2"):
        model.head.weight = model.embedding.weight
    return model.to(dtype)


@cache
def native_model(
    name: str, format: str, isa: str | None = None, activations: Activations = "bfloat16"
) -> CausalLM:
    """The model of a name on the kernels; isa: what KEPT_ISA says, which a program keeps."""
    model = plain_model(name, torch.float32 if format == "fp32" else torch.bfloat16)
    model.pack(partial(pack_weight, format), activations=activations)
    assert model.native is not None
    assert isa in (None, model.native.program.isa)
    return model


def pack_weight(format: str, weight: Tensor, gated: bool, bias: Tensor | None) -> PackedMatrix:
    """`pack_as` in the form that `CausalLM.pack` takes."""
    return pack_as(format, weight, gated=gated, bias=bias)
