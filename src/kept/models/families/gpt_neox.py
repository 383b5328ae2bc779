"""GPT-NeoX and Pythia: attention and MLP side by side, each with a norm, a quarter of each head
rotated, and queries, keys and values stored head by head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.ungated import read_ungated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.rope_config import read_rope
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "max_position_embeddings": 2048,
}


def read_gpt_neox_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type gpt_neox."""
    fields = Fields(config)
    found = read_ungated(
        fields,
        _DEFAULTS,
        {},
        order="beside apart" if fields.flag("use_parallel_residual", True) else "before",
        activation="gelu",
        eps_field="layer_norm_eps",
        activation_field="hidden_act",
        tied=False,
    )
    named = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    own = Fields(
        {
            here: fields.number(there, d)
            for (here, there), d in zip(named.items(), (10000.0, 0.25), strict=True)
        }
    )
    inner = (fields.nested("rope_scaling") or fields.nested("rope_parameters") or Fields({})).over(
        own
    )
    rope, context = read_rope(fields, found.head_dim, found.context, inner=inner, partial=0.25)
    bias = fields.flag("attention_bias", True)
    return replace(
        found,
        context=context,
        ropes=(rope,),
        turns=(0,) * found.num_layers,
        qkv_bias=bias,
        out_bias=bias,
    )


def _weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(
        model={"gpt_neox.embed_in": "embedding", "gpt_neox.final_layer_norm": "norm"},
        head="embed_out",
        layer="gpt_neox.layers.{}",
        parts={
            "input_layernorm": "attention_norm",
            "attention.dense": "attention.out",
            "post_attention_layernorm": "mlp_norm",
            "mlp.dense_h_to_4h": "mlp.up",
            "mlp.dense_4h_to_h": "mlp.down",
        },
        qkv=("attention.query_key_value",),
        gates=(),
        grouped=config.num_heads,
        prefixes=("gpt_neox.",),
        ignored=(r"\.attention\.(masked_)?bias$",),
        aliases={"lm_head.weight": "embed_out.weight"},
    )
    return decoder_weight_map(config, names)


FAMILIES = {"gpt_neox": Family("GPTNeoXForCausalLM", read_gpt_neox_config, Decoder, _weights)}
