"""Cohere's Command: one norm for attention and MLP, which stand side by side; pairs of neighbours
are rotated; logits are scaled. In Command A and R7B (`cohere2`) layers with a window rotate, and
the others see everything and know no positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import LLAMA_PARTS, StoredNames, decoder_weight_map
from kept.models.families.gated import read_gated, read_layer_windows, read_window
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
}


def read_cohere_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type cohere."""
    fields = Fields(config)
    normed = fields.flag("use_qk_norm", False)
    return replace(
        _read(fields, 500000.0),
        head_norm="own" if normed else None,
        head_norm_kind="unbiased",
    )


def read_cohere2_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type cohere2."""
    fields = Fields(config)
    found = _read(fields, 10000.0)
    window = read_window(fields, 4096)
    every = fields.integer("sliding_window_pattern", 4)
    usual = [None if (i + 1) % every == 0 else window for i in range(found.num_layers)]
    windows = read_layer_windows(fields, window, usual)
    return replace(found, windows=windows, turns=tuple(None if w is None else 0 for w in windows))


def _read(fields: Fields, theta: float) -> DecoderConfig:
    bias = fields.flag("attention_bias", False)
    return replace(
        read_gated(fields, _DEFAULTS, theta=theta, tied=True),
        norm="unbiased",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        order="beside",
        neighbours=True,
        logit_scale=fields.number("logit_scale", 0.0625),
        qkv_bias=bias,
        out_bias=bias,
    )


def _weights(config: DecoderConfig) -> WeightMap:
    parts = dict(LLAMA_PARTS)
    del parts["post_attention_layernorm"]
    if config.head_norm is not None:
        parts |= {"self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm"}
    return decoder_weight_map(config, StoredNames(parts=parts))


FAMILIES = {
    "cohere": Family("CohereForCausalLM", read_cohere_config, Decoder, _weights),
    "cohere2": Family("Cohere2ForCausalLM", read_cohere2_config, Decoder, _weights),
}
