"""SmolLM3: a Llama of which every fourth layer does not rotate, so that it knows no positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import read_gated, read_layer_windows, read_window
from kept.models.family import Family
from kept.models.fields import Fields

_DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}


def read_smollm3_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type smollm3."""
    fields = Fields(config)
    found = read_gated(fields, _DEFAULTS, theta=2e6, tied=True)
    rotates = _rotates(fields, found.num_layers)
    window = read_window(fields, None) if fields.flag("use_sliding_window", False) else None
    # Where the types of layers are not said, those that rotate see everything.
    by_default = [None if rotated else window for rotated in rotates]
    bias = fields.flag("attention_bias", False)
    return replace(
        found,
        turns=tuple(0 if rotated else None for rotated in rotates),
        windows=read_layer_windows(fields, window, by_default),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def _rotates(fields: Fields, layers: int) -> list[bool]:
    """Which layers rotate: in `no_rope_layers` those that are 1."""
    given = fields.flags("no_rope_layers", layers)
    if given is not None:
        return given
    every = fields.integer("no_rope_layer_interval", 4)
    return [(layer + 1) % every != 0 for layer in range(layers)]


FAMILIES = {
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        read_smollm3_config,
        Decoder,
        lambda config: decoder_weight_map(config, StoredNames()),
    )
}
