"""Granite: a Llama whose vectors, scores, residual sums and logits are each scaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import LLAMA_DEFAULTS, read_gated
from kept.models.family import Family
from kept.models.fields import Fields


def read_granite_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type granite."""
    fields = Fields(config)
    bias = fields.flag("attention_bias", False)
    return replace(
        read_gated(fields, LLAMA_DEFAULTS),
        scale=fields.number("attention_multiplier", 1.0),
        embedding_scale=fields.number("embedding_multiplier", 1.0),
        residual_scale=fields.number("residual_multiplier", 1.0),
        logit_scale=1.0 / fields.number("logits_scaling", 1.0),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


FAMILIES = {
    "granite": Family(
        "GraniteForCausalLM",
        read_granite_config,
        Decoder,
        lambda config: decoder_weight_map(config, StoredNames()),
    )
}
