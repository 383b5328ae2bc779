"""OLMo, OLMo 2 and OLMo 3.

OLMo norms without weights. Since OLMo 2 norms stand behind attention and MLP, before their residual
sums, and queries and keys are normed over all heads together. OLMo 3 has windows in three layers of
four, and scales the rotary embedding of the others alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import SLIDING, read_gated, read_layer_windows, read_window
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.rope_config import RopeConfig, read_rope
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_THETA = 500000.0  # OLMo 3's


def read_olmo_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model types olmo and olmo2."""
    fields = Fields(config)
    if config["model_type"] == "olmo2":
        return _behind(read_gated(fields, _DEFAULTS, eps=1e-5), fields)
    fields.refuse("clip_qkv", None, "it does not clip queries, keys and values")
    bias = fields.flag("attention_bias", False)
    found = read_gated(fields, _DEFAULTS)
    return replace(found, norm="plain", norm_eps=1e-5, qkv_bias=bias, out_bias=bias)


def read_olmo3_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type olmo3."""
    fields = Fields(config)
    by_type = fields.nested("rope_parameters") or Fields({})
    scaling = by_type.nested("full_attention") or Fields({})
    scaling = (fields.nested("rope_scaling") or Fields({})).over(scaling)
    found = _behind(read_gated(fields, _DEFAULTS, eps=1e-5, theta=_THETA, inner=scaling), fields)
    window = read_window(fields, 4096)
    usual = [None if (i + 1) % 4 == 0 else window for i in range(found.num_layers)]
    windows = read_layer_windows(fields, window, usual)
    # As in transformers: without a base of their own they have the default, whatever the others'.
    plain = Fields({"rope_type": "default", "rope_theta": _THETA})
    inner = (by_type.nested(SLIDING) or Fields({})).over(plain)
    local, _ = read_rope(fields, found.head_dim, found.context, inner=inner)
    types = fields.strings("layer_types", found.num_layers, choices=("full_attention", SLIDING))
    is_local = [t == SLIDING for t in types] if types else [w is not None for w in usual]
    return _with_ropes(replace(found, windows=windows), local, is_local)


def _behind(found: DecoderConfig, fields: Fields) -> DecoderConfig:
    bias = fields.flag("attention_bias", False)
    return replace(found, order="after", head_norm="all", qkv_bias=bias, out_bias=bias)


def _with_ropes(found: DecoderConfig, local: RopeConfig, is_local: list[bool]) -> DecoderConfig:
    [rope] = found.ropes
    if rope == local:
        return found
    return replace(found, ropes=(rope, local), turns=tuple(1 if there else 0 for there in is_local))


def _olmo_weights(config: DecoderConfig) -> WeightMap:
    parts = {"self_attn.o_proj": "attention.out", "mlp.down_proj": "mlp.down"}
    names = StoredNames(model={"model.embed_tokens": "embedding"}, parts=parts)
    return decoder_weight_map(config, names)


def _olmo2_weights(config: DecoderConfig) -> WeightMap:
    behind = {
        "self_attn.o_proj": "attention.out",
        "mlp.down_proj": "mlp.down",
        "self_attn.q_norm": "attention.q_norm",
        "self_attn.k_norm": "attention.k_norm",
        "post_attention_layernorm": "attention_post_norm",
        "post_feedforward_layernorm": "mlp_post_norm",
    }
    return decoder_weight_map(config, StoredNames(parts=behind))


FAMILIES = {
    "olmo": Family("OlmoForCausalLM", read_olmo_config, Decoder, _olmo_weights),
    "olmo2": Family("Olmo2ForCausalLM", read_olmo_config, Decoder, _olmo2_weights),
    "olmo3": Family("Olmo3ForCausalLM", read_olmo3_config, Decoder, _olmo2_weights),
}
