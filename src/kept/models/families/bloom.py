"""BLOOM: positions by ALiBi's bias, vectors of tokens normed, and queries, keys and values stored
head by head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.alibi import slopes_of
from kept.models.families.ungated import read_ungated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 250880,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
}
# The first of these models have names of their own; both are read.
_NAMES = {
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "seq_length",
}


def read_bloom_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type bloom."""
    fields = Fields(config)
    fields.refuse(
        "apply_residual_connection_post_layernorm", False, "no published BLOOM adds to its norms"
    )
    names = {k: v for k, v in _NAMES.items() if fields.has(v) or not fields.has(k)}
    if fields.has("n_embed"):
        names["hidden_size"] = "n_embed"
    fixed = Fields({**config, "activation_function": "gelu_pytorch_tanh"})
    found = read_ungated(
        fixed, _DEFAULTS, names, order="before", activation="gelu_pytorch_tanh", tied=True
    )
    return replace(found, slopes=slopes_of(found.num_heads), embedding_norm=True)


def _weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(
        model={
            "transformer.word_embeddings": "embedding",
            "transformer.word_embeddings_layernorm": "embedding_norm",
            "transformer.ln_f": "norm",
        },
        layer="transformer.h.{}",
        parts={
            "input_layernorm": "attention_norm",
            "self_attention.dense": "attention.out",
            "post_attention_layernorm": "mlp_norm",
            "mlp.dense_h_to_4h": "mlp.up",
            "mlp.dense_4h_to_h": "mlp.down",
        },
        qkv=("self_attention.query_key_value",),
        gates=(),
        grouped=config.num_heads,
        prefixes=("transformer.",),
        fields=_NAMES,
    )
    return decoder_weight_map(config, names)


FAMILIES = {"bloom": Family("BloomForCausalLM", read_bloom_config, Decoder, _weights)}
