"""What config.json says of every model of a family, whatever its size, as published ones say it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Config = Mapping[str, Any]


def gpt2(layers: int, width: int, heads: int) -> Config:
    """Of GPT-2."""
    return MappingProxyType(
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "dtype": "float32",
        }
    )


def llama_like(
    model_type: str,
    architecture: str,
    *,
    vocab: int,
    width: int,
    mlp: int,
    layers: int,
    heads: tuple[int, int],
    context: int,
    theta: float,
    tied: bool,
    eps: float = 1e-5,
    dtype: str = "bfloat16",
    **extra: Any,
) -> Config:
    """Of models laid out as Llama is. heads: query heads, then key/value heads; extra: further
    fields."""
    return MappingProxyType(
        {
            "model_type": model_type,
            "architectures": [architecture],
            "vocab_size": vocab,
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads[0],
            "num_key_value_heads": heads[1],
            "max_position_embeddings": context,
            "rope_theta": theta,
            "rms_norm_eps": eps,
            "hidden_act": "silu",
            "tie_word_embeddings": tied,
            "dtype": dtype,
            **extra,
        }
    )


def llama(**fields: Any) -> Config:
    """Of Llama, of any generation. fields: as of `llama_like`, here and below."""
    return llama_like("llama", "LlamaForCausalLM", **fields)


def smollm2(**fields: Any) -> Config:
    """Of SmolLM2, which is a Llama."""
    return llama(vocab=49152, context=8192, tied=True, **fields)


def llama3(*, rope_factor: float, **fields: Any) -> Config:
    """Of Llama 3.1 and 3.2, whose context scaling has stretched."""
    scaling = {
        "rope_type": "llama3",
        "factor": rope_factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return llama(vocab=128256, context=131072, theta=500000.0, rope_scaling=scaling, **fields)


def qwen2(**fields: Any) -> Config:
    """Of Qwen 2.5."""
    return llama_like(
        "qwen2", "Qwen2ForCausalLM", theta=1e6, eps=1e-6, use_sliding_window=False, **fields
    )


def qwen3(**fields: Any) -> Config:
    """Of Qwen 3."""
    return llama_like(
        "qwen3",
        "Qwen3ForCausalLM",
        vocab=151936,
        context=40960,
        theta=1e6,
        eps=1e-6,
        head_dim=128,
        attention_bias=False,
        use_sliding_window=False,
        **fields,
    )


def qwen3_moe(*, experts: int, **fields: Any) -> Config:
    """Of Qwen 3 with experts: the size of each of 128, of which a token goes to 8."""
    return llama_like(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        context=40960,
        theta=1e6,
        eps=1e-6,
        head_dim=128,
        attention_bias=False,
        use_sliding_window=False,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=experts,
        norm_topk_prob=True,
        **fields,
    )


def deepseek_v2(*, experts: int, num_experts: int, **fields: Any) -> Config:
    """Of DeepSeek V2. experts: the size of each."""
    scaling = {
        "type": "yarn",
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "beta_fast": 32,
        "beta_slow": 1,
        "original_max_position_embeddings": 4096,
    }
    return llama_like(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        context=163840,
        theta=10000.0,
        eps=1e-6,
        rope_scaling=scaling,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        moe_intermediate_size=experts,
        n_routed_experts=num_experts,
        first_k_dense_replace=1,
        topk_method="greedy",
        norm_topk_prob=False,
        **fields,
    )


def gemma(model_type: str, architecture: str, **fields: Any) -> Config:
    """Of Gemma 2 and 3."""
    return llama_like(
        model_type,
        architecture,
        eps=1e-6,
        tied=True,
        head_dim=256,
        query_pre_attn_scalar=256,
        hidden_activation="gelu_pytorch_tanh",
        **fields,
    )


def gemma3(**fields: Any) -> Config:
    """Of the text models of Gemma 3."""
    return gemma(
        "gemma3_text",
        "Gemma3ForCausalLM",
        vocab=262144,
        heads=(4, 1),
        context=32768,
        theta=1e6,
        rope_local_base_freq=10000.0,
        sliding_window=512,
        sliding_window_pattern=6,
        **fields,
    )
