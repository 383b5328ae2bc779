"""Falcon: 7B (one key head), 40B and 11B (groups of heads, a norm each for attention and MLP), and
the RefinedWeb models (ALiBi, one half after the other)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from kept.errors import UnsupportedModelError
from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig, Order
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.alibi import slopes_of
from kept.models.families.ungated import read_ungated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.rope_config import read_rope
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "max_position_embeddings": 2048,
}
_NAMES = {"intermediate_size": "ffn_hidden_size", "num_key_value_heads": "num_kv_heads"}


def read_falcon_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type falcon."""
    fields = Fields(config)
    names = _NAMES | ({"hidden_size": "n_embed"} if fields.has("n_embed") else {})
    found = read_ungated(
        fields,
        _DEFAULTS,
        names,
        order=_order(fields),
        activation="gelu",
        activation_field="activation",
        tied=True,
    )
    if not fields.flag("new_decoder_architecture", False):
        one = fields.flag("multi_query", True)
        found = replace(found, num_kv_heads=1 if one else found.num_heads)
    bias = fields.flag("bias", False)
    found = replace(found, qkv_bias=bias, out_bias=bias, mlp_bias=bias)
    if fields.flag("alibi", False):
        # As transformers has them: rounded to bfloat16, and scaled like the scores they join.
        exact = torch.tensor(slopes_of(found.num_heads), dtype=torch.float32, device="cpu")
        slopes = exact.bfloat16().float() * found.scale
        return replace(found, slopes=tuple(slopes.tolist()))
    rope, context = read_rope(fields, found.head_dim, found.context)
    return replace(found, context=context, ropes=(rope,), turns=(0,) * found.num_layers)


def _order(fields: Fields) -> Order:
    beside = fields.flag("parallel_attn", True)
    if not fields.flag("new_decoder_architecture", False):
        return "beside" if beside else "before"
    if not beside:
        raise UnsupportedModelError(
            "config.json has new_decoder_architecture = True and parallel_attn = False, and kept "
            "runs the former with attention and MLP side by side, as transformers does"
        )
    return "beside" if fields.integer("num_ln_in_parallel_attn", 2) == 1 else "beside apart"


def _weights(config: DecoderConfig) -> WeightMap:
    norms = {
        "before": {
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "mlp_norm",
        },
        "beside": {"input_layernorm": "attention_norm"},
        "beside apart": {"ln_attn": "attention_norm", "ln_mlp": "mlp_norm"},
    }
    names = StoredNames(
        model={"transformer.word_embeddings": "embedding", "transformer.ln_f": "norm"},
        layer="transformer.h.{}",
        parts={
            **norms[config.order],
            "self_attention.dense": "attention.out",
            "mlp.dense_h_to_4h": "mlp.up",
            "mlp.dense_4h_to_h": "mlp.down",
        },
        qkv=("self_attention.query_key_value",),
        gates=(),
        grouped=config.num_kv_heads,
        prefixes=("transformer.",),
        fields=_NAMES,
    )
    return decoder_weight_map(config, names)


FAMILIES = {"falcon": Family("FalconForCausalLM", read_falcon_config, Decoder, _weights)}
