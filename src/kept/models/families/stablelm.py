"""StableLM: a Llama with layer norms that rotates a quarter of each head."""

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
    "vocab_size": 50304,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}


def read_stablelm_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type stablelm."""
    fields = Fields(config)
    fields.refuse(
        "qk_layernorm", False, "it stores the norms of queries and keys head by head, as 12B does"
    )
    beside = fields.flag("use_parallel_residual", False)
    return replace(
        read_gated(fields, _DEFAULTS, partial=0.25),
        norm="layer",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        order="beside" if beside else "before",
        qkv_bias=fields.flag("use_qkv_bias", False),
    )


def _weights(config: DecoderConfig) -> WeightMap:
    parts = dict(LLAMA_PARTS)
    if config.order == "beside":
        del parts["post_attention_layernorm"]
    return decoder_weight_map(config, StoredNames(parts=parts))


FAMILIES = {
    "stablelm": Family(
        "StableLmForCausalLM",
        read_stablelm_config,
        Decoder,
        _weights,
        ("StableLMEpochForCausalLM",),
    )
}
