"""MPT: positions by ALiBi's bias, layer norms and matrices without biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.alibi import mpt_slopes
from kept.models.families.ungated import read_ungated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 50368,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
}
_NAMES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "max_position_embeddings": "max_seq_len",
}


def read_mpt_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type mpt."""
    fields = Fields(config)
    fields.refuse("no_bias", True, "transformers builds it without biases too")
    fields.refuse("expansion_ratio", 4, "its MLP is four times as wide as the model")
    fields.refuse("logit_scale", None, "transformers passes it over")
    attention = fields.nested("attn_config") or Fields({})
    attention.refuse("alibi", True, "without it transformers knows no positions")
    attention.refuse("clip_qkv", None, "it does not clip queries, keys and values")
    attention.refuse("qk_ln", False, "it does not norm queries and keys")
    attention.refuse("prefix_lm", False, "where tokens see those after them, keys cannot be kept")
    attention.refuse("attn_type", "multihead_attention", "transformers has no other")
    found = read_ungated(
        Fields({**config, "activation_function": "gelu"}),
        _DEFAULTS,
        _NAMES,
        order="before",
        activation="gelu",
        tied=True,
    )
    return replace(
        found,
        norm="unbiased",
        scale=attention.number("softmax_scale", found.scale),
        slopes=mpt_slopes(found.num_heads, attention.number("alibi_bias_max", 8)),
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
    )


def _weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(
        model={"transformer.wte": "embedding", "transformer.norm_f": "norm"},
        layer="transformer.blocks.{}",
        parts={
            "norm_1": "attention_norm",
            "attn.out_proj": "attention.out",
            "norm_2": "mlp_norm",
            "ffn.up_proj": "mlp.up",
            "ffn.down_proj": "mlp.down",
        },
        qkv=("attn.Wqkv",),
        gates=(),
        prefixes=("transformer.",),
        fields=_NAMES,
    )
    return decoder_weight_map(config, names)


FAMILIES = {"mpt": Family("MptForCausalLM", read_mpt_config, Decoder, _weights)}
