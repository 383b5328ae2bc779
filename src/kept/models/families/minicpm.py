"""MiniCPM 1 and 2: a Llama whose vectors, residual sums and logits are scaled, by the sizes of the
model. transformers runs it by code out of the checkpoint's repository."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import LLAMA_DEFAULTS, read_gated
from kept.models.family import Family
from kept.models.fields import Fields


def read_minicpm_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type minicpm."""
    fields = Fields(config)
    for experts in ("num_experts", "num_local_experts"):
        fields.refuse(experts, 0, "its MLPs are not chosen among experts")
    found = read_gated(fields, LLAMA_DEFAULTS, tied=True)
    bias = fields.flag("attention_bias", False)
    return replace(
        found,
        embedding_scale=fields.number("scale_emb", 1.0),
        residual_scale=fields.number("scale_depth", 1.0) / math.sqrt(found.num_layers),
        logit_scale=fields.integer("dim_model_base", 1) / found.hidden_size,
        qkv_bias=bias,
        out_bias=bias,
    )


FAMILIES = {
    "minicpm": Family(
        "MiniCPMForCausalLM",
        read_minicpm_config,
        Decoder,
        lambda config: decoder_weight_map(config, StoredNames()),
    )
}
