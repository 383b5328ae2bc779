"""StarCoder2: layer norms, biases everywhere, no gates, a window in every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import read_gated, read_window
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 49152,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def read_starcoder2_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type starcoder2."""
    fields = Fields(config)
    found = read_gated(fields, _DEFAULTS, tied=True, activation="gelu_pytorch_tanh")
    bias = fields.flag("use_bias", True)
    return replace(
        found,
        norm="layer",
        norm_eps=fields.number("norm_epsilon", 1e-5),
        gated=False,
        windows=(read_window(fields, None),) * found.num_layers,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
    )


def _weights(config: DecoderConfig) -> WeightMap:
    parts = {
        "input_layernorm": "attention_norm",
        "self_attn.o_proj": "attention.out",
        "post_attention_layernorm": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }
    return decoder_weight_map(config, StoredNames(parts=parts, gates=()))


FAMILIES = {
    "starcoder2": Family("Starcoder2ForCausalLM", read_starcoder2_config, Decoder, _weights)
}
