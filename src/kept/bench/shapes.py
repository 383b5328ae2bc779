"""The shapes of well-known models, as their published config.json gives them.

One is a published one made smaller, and says so. Enough to build the model and fill it with random
weights: how fast a step is depends on the shape and not on the values, so nothing need be
downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from kept.errors import OptionError

Config = Mapping[str, Any]


def _gpt2(layers: int, width: int, heads: int) -> Config:
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


def _llama_like(
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
    """heads: query heads, then key/value heads."""
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


def _llama(**fields: Any) -> Config:
    return _llama_like("llama", "LlamaForCausalLM", **fields)


def _smollm2(**fields: Any) -> Config:
    return _llama(vocab=49152, context=8192, tied=True, **fields)


def _llama3(*, rope_factor: float, **fields: Any) -> Config:
    scaling = {
        "rope_type": "llama3",
        "factor": rope_factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return _llama(vocab=128256, context=131072, theta=500000.0, rope_scaling=scaling, **fields)


def _qwen2(**fields: Any) -> Config:
    return _llama_like(
        "qwen2", "Qwen2ForCausalLM", theta=1e6, eps=1e-6, use_sliding_window=False, **fields
    )


def _qwen3(**fields: Any) -> Config:
    return _llama_like(
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


def _qwen3_moe(*, experts: int, **fields: Any) -> Config:
    """experts: the size of each of 128, of which a token goes to 8."""
    return _llama_like(
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


def _deepseek_v2(*, experts: int, num_experts: int, **fields: Any) -> Config:
    """experts: the size of each."""
    scaling = {
        "type": "yarn",
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "beta_fast": 32,
        "beta_slow": 1,
        "original_max_position_embeddings": 4096,
    }
    return _llama_like(
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


def _gemma(model_type: str, architecture: str, **fields: Any) -> Config:
    return _llama_like(
        model_type,
        architecture,
        eps=1e-6,
        tied=True,
        head_dim=256,
        query_pre_attn_scalar=256,
        hidden_activation="gelu_pytorch_tanh",
        **fields,
    )


def _gemma3(**fields: Any) -> Config:
    return _gemma(
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


SHAPES: Final[Mapping[str, Config]] = MappingProxyType(
    {
        "gpt2": _gpt2(12, 768, 12),
        "gpt2-medium": _gpt2(24, 1024, 16),
        "gpt2-large": _gpt2(36, 1280, 20),
        "gpt2-xl": _gpt2(48, 1600, 25),
        "gemma-2-2b": _gemma(
            "gemma2",
            "Gemma2ForCausalLM",
            vocab=256000,
            width=2304,
            mlp=9216,
            layers=26,
            heads=(8, 4),
            context=8192,
            theta=10000.0,
            sliding_window=4096,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        ),
        "gemma-3-270m": _gemma3(width=640, mlp=2048, layers=18),
        "gemma-3-1b": _gemma3(width=1152, mlp=6912, layers=26),
        "smollm2-135m": _smollm2(width=576, mlp=1536, layers=30, heads=(9, 3), theta=100000.0),
        "smollm2-360m": _smollm2(width=960, mlp=2560, layers=32, heads=(15, 5), theta=100000.0),
        "smollm2-1.7b": _smollm2(width=2048, mlp=8192, layers=24, heads=(32, 32), theta=130000.0),
        "qwen2.5-0.5b": _qwen2(
            vocab=151936, width=896, mlp=4864, layers=24, heads=(14, 2), context=32768, tied=True
        ),
        "qwen2.5-1.5b": _qwen2(
            vocab=151936, width=1536, mlp=8960, layers=28, heads=(12, 2), context=131072, tied=True
        ),
        "qwen2.5-7b": _qwen2(
            vocab=152064,
            width=3584,
            mlp=18944,
            layers=28,
            heads=(28, 4),
            context=131072,
            tied=False,
        ),
        "qwen3-0.6b": _qwen3(width=1024, mlp=3072, layers=28, heads=(16, 8), tied=True),
        "qwen3-1.7b": _qwen3(width=2048, mlp=6144, layers=28, heads=(16, 8), tied=True),
        "qwen3-30b-a3b": _qwen3_moe(
            vocab=151936, width=2048, mlp=6144, layers=48, heads=(32, 4), experts=768, tied=False
        ),
        # Its proportions at a twentieth of the parameters, for machines that cannot hold it: 1.5
        # billion of which a token meets 0.2.
        "qwen3-30b-a3b-small": _qwen3_moe(
            vocab=32768, width=1024, mlp=3072, layers=14, heads=(16, 2), experts=256, tied=True
        ),
        "deepseek-v2-lite": _deepseek_v2(
            vocab=102400,
            width=2048,
            mlp=10944,
            layers=27,
            heads=(16, 16),
            experts=1408,
            num_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            q_lora_rank=None,
            routed_scaling_factor=1.0,
            tied=False,
        ),
        "llama-3.2-1b": _llama3(
            width=2048, mlp=8192, layers=16, heads=(32, 8), tied=True, rope_factor=32.0, head_dim=64
        ),
        "llama-3.2-3b": _llama3(
            width=3072,
            mlp=8192,
            layers=28,
            heads=(24, 8),
            tied=True,
            rope_factor=32.0,
            head_dim=128,
        ),
        "llama-3.1-8b": _llama3(
            width=4096, mlp=14336, layers=32, heads=(32, 8), tied=False, rope_factor=8.0
        ),
        "llama-2-7b": _llama(
            vocab=32000,
            width=4096,
            mlp=11008,
            layers=32,
            heads=(32, 32),
            context=4096,
            theta=10000.0,
            tied=False,
            dtype="float16",
        ),
        "mixtral-8x7b-v0.1": _llama_like(
            "mixtral",
            "MixtralForCausalLM",
            vocab=32000,
            width=4096,
            mlp=14336,
            layers=32,
            heads=(32, 8),
            context=32768,
            theta=1e6,
            tied=False,
            sliding_window=None,
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
        "mistral-7b-v0.1": _llama_like(
            "mistral",
            "MistralForCausalLM",
            vocab=32000,
            width=4096,
            mlp=14336,
            layers=32,
            heads=(32, 8),
            context=32768,
            theta=10000.0,
            tied=False,
            sliding_window=4096,
        ),
    }
)


def shape_config(name: str) -> Config:
    """The config.json of a known shape. Raises OptionError that lists the known ones."""
    if name not in SHAPES:
        raise OptionError(f"no shape is called {name!r}; there are {', '.join(SHAPES)}")
    return SHAPES[name]
