"""Phi: 1, 1.5 and 2 (`phi`), and 3, 3.5, 4 and 4-mini (`phi3`).

Phi-2 norms once for attention and MLP, which stand side by side. Phi-3 is a Llama whose queries,
keys and values are one stored matrix, as are gates and what they gate; its long versions stretch
the rotary embedding by one table of factors up to the trained context and another beyond it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig, read_sizes
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import read_gated, read_window
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.rope_config import read_rope
from kept.models.weight_map import WeightMap
from kept.ops import ACTIVATIONS

_PHI = {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_PHI3 = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}


def read_phi_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type phi."""
    fields = Fields(config)
    fields.refuse("qk_layernorm", False, "no published Phi norms its queries and keys")
    sizes = read_sizes(fields, _PHI)
    width, layers = sizes["head_dim"], sizes["num_layers"]
    positions = fields.integer("max_position_embeddings", 2048)
    rope, context = read_rope(fields, width, positions, partial=0.5)
    return DecoderConfig(
        **sizes,
        context=context,
        norm="layer",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        order="beside",
        activation=fields.choice("hidden_act", "gelu_new", ACTIVATIONS),
        gated=False,
        tied=fields.flag("tie_word_embeddings", False),
        scale=width**-0.5,
        windows=(None,) * layers,
        ropes=(rope,),
        turns=(0,) * layers,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


def read_phi3_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type phi3."""
    fields = Fields(config)
    inner = fields.nested("rope_scaling") or fields.nested("rope_parameters") or Fields({})
    kind = inner.choice(
        "rope_type" if inner.has("rope_type") else "type",
        "default",
        ("default", "longrope", "su", "yarn"),
    )
    # What the first of these models called it; Phi's "yarn" is no YaRN.
    named = Fields({"rope_type": "default" if kind == "default" else "longrope"})
    if fields.has("original_max_position_embeddings"):
        trained = fields.integer("original_max_position_embeddings")
        named = Fields({"original_max_position_embeddings": trained}).over(named)
    elif kind != "default" and not inner.has("original_max_position_embeddings"):
        named = Fields({"original_max_position_embeddings": 4096}).over(named)
    found = read_gated(fields, _PHI3, eps=1e-5, partial=1.0, inner=named.over(inner))
    window = read_window(fields, None)
    return replace(found, windows=(window,) * found.num_layers)


def _phi_weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(
        model={"model.embed_tokens": "embedding", "model.final_layernorm": "norm"},
        parts={
            "input_layernorm": "attention_norm",
            "self_attn.dense": "attention.out",
            "mlp.fc1": "mlp.up",
            "mlp.fc2": "mlp.down",
        },
        gates=(),
    )
    return decoder_weight_map(config, names)


def _phi3_weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(qkv=("self_attn.qkv_proj",), gates=("mlp.gate_up_proj",))
    return decoder_weight_map(config, names)


FAMILIES = {
    "phi": Family("PhiForCausalLM", read_phi_config, Decoder, _phi_weights),
    "phi3": Family("Phi3ForCausalLM", read_phi3_config, Decoder, _phi3_weights),
}
