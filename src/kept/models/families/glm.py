"""GLM-4: half of each head is rotated, in pairs of neighbours; gates and what they gate are one
stored matrix. The models of 2025 (`glm4`) norm attention and MLP behind too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import LLAMA_PARTS, StoredNames, decoder_weight_map
from kept.models.families.gated import read_gated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
}


def read_glm_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model types glm and glm4."""
    fields = Fields(config)
    return replace(
        read_gated(fields, _DEFAULTS, eps=1.5625e-7, partial=0.5),
        order="around" if config["model_type"] == "glm4" else "before",
        neighbours=True,
        qkv_bias=fields.flag("attention_bias", True),
    )


def _weights(config: DecoderConfig) -> WeightMap:
    parts = dict(LLAMA_PARTS)
    if config.order == "around":
        parts |= {
            "post_self_attn_layernorm": "attention_post_norm",
            "post_mlp_layernorm": "mlp_post_norm",
        }
    return decoder_weight_map(config, StoredNames(parts=parts, gates=("mlp.gate_up_proj",)))


FAMILIES = {
    "glm": Family("GlmForCausalLM", read_glm_config, Decoder, _weights),
    "glm4": Family("Glm4ForCausalLM", read_glm_config, Decoder, _weights),
}
