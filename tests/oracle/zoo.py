"""The checkpoints: a name, the transformers config that makes it, and random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import kept

from .families import FAMILIES, MODELS
from .mixtures import MIXTURE_MODELS, MIXTURES
from .sizes import DYNAMIC_CONTEXT, GPT2, LLAMA, SHORT, THREE, VOCAB, rope, yarn

__all__ = [
    "DYNAMIC_CONTEXT",
    "FEW",
    "REST",
    "SHORT",
    "VOCAB",
    "ZOO",
    "Pair",
    "make_hf",
    "randomise",
    "settle",
]

# A head apart from the width, three layers of which two have a window, which prompts outgrow, and
# caps low enough to bend what these weights make.
_GEMMA = {
    **THREE,
    "head_dim": 12,
    "sliding_window": 7,
    "query_pre_attn_scalar": 10,
    "pad_token_id": None,
}
_MODELS: Mapping[str, tuple[type[PreTrainedModel], Any, Mapping[str, Any]]] = {
    "gemma": (GemmaForCausalLM, GemmaConfig, {**_GEMMA, "num_hidden_layers": 2}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, _GEMMA),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {**_GEMMA, "sliding_window_pattern": 2}),
    **MODELS,
    **MIXTURE_MODELS,
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2),
    "llama": (LlamaForCausalLM, LlamaConfig, LLAMA),
    "mistral": (MistralForCausalLM, MistralConfig, THREE),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, THREE),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**THREE, "head_dim": 16}),
}


ZOO: Mapping[str, Mapping[str, Any]] = {
    "gemma": {},
    "gemma gelu": {"hidden_act": "gelu", "attention_bias": True},
    "gemma2": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 2.0},
    "gemma2 uncapped": {"final_logit_softcapping": None, "attn_logit_softcapping": None},
    "gemma2 local": {"layer_types": ["sliding_attention"] * 3, "tie_word_embeddings": False},
    "gemma2 global": {
        "layer_types": ["full_attention"] * 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 18,
    },
    "gemma2 bias": {"attention_bias": True, "hidden_activation": "silu"},
    "gemma2 short": {"max_position_embeddings": SHORT},
    "gemma3": {},
    "gemma3 linear": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        }
    },
    "gemma3 capped": {"final_logit_softcapping": 4.0, "num_key_value_heads": 1},
    "gemma3 layer types": {
        "attention_bias": True,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    },
    "gemma3 short": {"max_position_embeddings": SHORT},
    "gpt2": {},
    "gpt2 by layer": {"n_layer": 3, "scale_attn_by_inverse_layer_idx": True},
    "gpt2 unscaled": {"scale_attn_weights": False},
    "gpt2 unscaled by layer": {
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "gpt2 inner": {"n_inner": 50},
    "gpt2 relu": {"activation_function": "relu", "layer_norm_epsilon": 1e-2},
    "gpt2 gelu": {"activation_function": "gelu"},
    "gpt2 silu": {"activation_function": "silu"},
    "gpt2 gelu_fast": {"activation_function": "gelu_fast"},
    "gpt2 gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "gpt2 untied": {"tie_word_embeddings": False},
    "gpt2 short": {"n_positions": SHORT},
    "llama": {},
    "llama short": {"max_position_embeddings": SHORT},
    "llama mha": {"num_key_value_heads": 6},
    "llama mqa": {"num_key_value_heads": 1},
    "llama wide heads": {"head_dim": 12},
    "llama narrow heads": {"head_dim": 4, "rms_norm_eps": 1e-2},
    "llama attention bias": {"attention_bias": True},
    "llama mlp bias": {"mlp_bias": True, "hidden_act": "gelu"},
    "llama tied": {"tie_word_embeddings": True},
    "llama theta": rope("default", rope_theta=500000.0),
    "llama linear": rope("linear", factor=2.5),
    "llama dynamic": {
        "max_position_embeddings": DYNAMIC_CONTEXT,
        **rope("dynamic", factor=8.0),
    },
    "llama llama3": rope(
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    ),
    "llama yarn": yarn(),
    "llama yarn attention factor": yarn(attention_factor=0.7),
    "llama yarn mscale": yarn(mscale=0.7, mscale_all_dim=1.3),
    "llama yarn one mscale": yarn(mscale=0.7),
    "llama yarn betas": yarn(beta_fast=8.0, beta_slow=0.5),
    "llama yarn untruncated": {"head_dim": 16, **yarn(truncate=False)},
    "llama yarn implied factor": yarn(factor=None),
    "mistral": {"sliding_window": 7},
    "mistral no window": {"sliding_window": None},
    "mistral wide heads": {"sliding_window": 5, "head_dim": 12},
    **MIXTURES,
    "qwen2": {},
    "qwen2 tied": {"tie_word_embeddings": True},
    "qwen2 window": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen2 window off": {"use_sliding_window": False, "sliding_window": 6, "max_window_layers": 0},
    "qwen2 layer types": {
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen3": {},
    "qwen3 bias": {"attention_bias": True},
    "qwen3 window": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
}
# One of each family, for laws in which the family's details play no part.
REST = [name for name in ZOO if "short" not in name]
FEW = ("gemma2", "gemma3", "gpt2", "llama", "mistral", "qwen2 window", "qwen2_moe", "qwen3")


@dataclass(frozen=True)
class Pair:
    """One checkpoint in both: transformers' model, and kept's LLM loaded from the folder."""

    name: str
    folder: Path
    hf: PreTrainedModel
    llm: kept.LLM

    @property
    def model(self) -> kept.CausalLM:
        """kept's model."""
        return self.llm.model


def make_hf(name: str, **changes: Any) -> PreTrainedModel:
    """transformers' model of a zoo name, seeded by that name, in eval mode, eager attention."""
    model_class, config_class, base = _MODELS[name.split()[0]]
    config = config_class(
        **{
            **base,
            **{**ZOO, **FAMILIES}[name],
            "bos_token_id": None,
            "eos_token_id": None,
            **changes,
        }
    )
    # transformers' eager attention takes Falcon's bias on twice.
    config._attn_implementation = "sdpa" if "alibi" in name else "eager"
    hf = model_class(config)
    randomise(hf, seed=sum(name.encode()))
    return hf.eval()


def randomise(hf: PreTrainedModel, seed: int) -> None:
    """Weights so large that a lost bias, a wrong angle or a missing key moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            is_norm = "norm" in name or ".ln_" in name
            # Their norms store weights less one, but for the newest ones'.
            kind = hf.config.model_type
            shifted = "gemma" in kind and "gemma4" not in kind and "gemma3n" not in kind
            centre = 1.0 if is_norm and name.endswith("weight") and not shifted else 0.0
            parameter.copy_(centre + 0.25 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in hf.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))


def settle(hf: PreTrainedModel) -> None:
    """Make a dynamic rotary embedding forget the longest sequence it has seen."""
    if getattr(hf.config, "rope_parameters", None):
        with torch.no_grad():
            hf(torch.zeros(1, 1, dtype=torch.int64))
