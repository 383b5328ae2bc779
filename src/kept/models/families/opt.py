"""OPT: learned positions, of which the first token has the third, and no gates.

The model of 350M norms behind its residual sums, and has vectors of tokens that are projected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig, Order
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.ungated import read_ungated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import Placement, WeightMap

_DEFAULTS = {
    "vocab_size": 50272,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
}
_NAMES = {"intermediate_size": "ffn_dim"}


def read_opt_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type opt."""
    fields = Fields(config)
    order: Order = "before" if fields.flag("do_layer_norm_before", True) else "behind sums"
    if order == "before":  # behind sums a block's own norm is the last, and is never left out
        fields.refuse("_remove_final_layer_norm", False, "its last norm is left out")
    fields.refuse("layer_norm_elementwise_affine", True, "its norms have no weights")
    found = read_ungated(fields, _DEFAULTS, _NAMES, order=order, activation="relu", tied=True)
    words = fields.integer("word_embed_proj_dim", found.hidden_size)
    bias = fields.flag("enable_bias", True)
    return replace(
        found,
        norm_eps=1e-5,
        positions_from=2,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        word_size=None if words == found.hidden_size else words,
    )


def _weights(config: DecoderConfig) -> WeightMap:
    model = {
        "model.decoder.embed_tokens": "embedding",
        "model.decoder.embed_positions": "positions",
    }
    projected, behind = config.word_size is not None, config.order == "behind sums"
    if projected:
        model |= {f"model.decoder.{name}": name for name in ("project_in", "project_out")}
    if not behind:
        model["model.decoder.final_layer_norm"] = "norm"
    names = StoredNames(
        model=model,
        layer="model.decoder.layers.{}",
        parts={
            "self_attn_layer_norm": "attention_norm",
            "self_attn.out_proj": "attention.out",
            "final_layer_norm": "mlp_norm",
            "fc1": "mlp.up",
            "fc2": "mlp.down",
        },
        gates=(),
        fields=_NAMES,
    )
    found = decoder_weight_map(config, names)
    more: dict[str, Placement] = {}
    if behind:  # see `PostNormBlock`
        last = f"model.decoder.layers.{config.num_layers - 1}.final_layer_norm"
        more |= {f"{last}.{kind}": Placement(f"norm.{kind}") for kind in ("weight", "bias")}
    if projected:
        more["blank.weight"] = Placement("blank.weight")
    zeros = frozenset({"blank.weight"} if projected else ())
    return replace(found, placements={**found.placements, **more}, zeros=zeros)


FAMILIES = {"opt": Family("OPTForCausalLM", read_opt_config, Decoder, _weights)}
