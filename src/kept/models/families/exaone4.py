"""EXAONE 4: norms behind attention and MLP, norms of heads, and in the larger models windows in
three layers of four, while the others see everything and know no positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import read_gated, read_layer_windows, read_window
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
}


def read_exaone4_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type exaone4."""
    fields = Fields(config)
    found = read_gated(fields, _DEFAULTS, eps=1e-5)
    window = read_window(fields, 4096)
    windows = read_layer_windows(fields, window, _usual(fields, window, found.num_layers))
    turns = tuple(None if window is not None and w is None else 0 for w in windows)
    return replace(found, order="after", head_norm="head", windows=windows, turns=turns)


def _usual(fields: Fields, window: int | None, layers: int) -> list[int | None]:
    """Where `layer_types` does not say: by `sliding_window_pattern` one in so many sees all."""
    if window is None or fields.has("layer_types"):
        return [None] * layers
    every = fields.integer("sliding_window_pattern", 4)
    return [None if (layer + 1) % every == 0 else window for layer in range(layers)]


def _weights(config: DecoderConfig) -> WeightMap:
    parts = {
        "self_attn.o_proj": "attention.out",
        "mlp.down_proj": "mlp.down",
        "self_attn.q_norm": "attention.q_norm",
        "self_attn.k_norm": "attention.k_norm",
        "post_attention_layernorm": "attention_post_norm",
        "post_feedforward_layernorm": "mlp_post_norm",
    }
    return decoder_weight_map(config, StoredNames(parts=parts))


FAMILIES = {"exaone4": Family("Exaone4ForCausalLM", read_exaone4_config, Decoder, _weights)}
