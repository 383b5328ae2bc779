"""GPT-J: one norm for attention and MLP, which stand side by side, and pairs of neighbours rotated
in the first `rotary_dim` elements of each head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.errors import CheckpointError
from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.ungated import GPT_FIELDS, read_ungated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.rope_config import RopeConfig
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 50400,
    "hidden_size": 4096,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
}


def read_gptj_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type gptj."""
    fields = Fields(config)
    found = read_ungated(
        fields, _DEFAULTS, GPT_FIELDS, order="beside", activation="gelu_new", tied=False
    )
    dim = fields.integer("rotary_dim", 64)
    if dim % 2 or dim > found.head_dim:
        raise CheckpointError(
            f"config.json has rotary_dim = {dim}, which must be even and at most the "
            f"{found.head_dim} elements of a head"
        )
    return replace(
        found,
        ropes=(RopeConfig("default", 10000.0, dim, found.context),),
        turns=(0,) * found.num_layers,
        neighbours=True,
        qkv_bias=False,
        out_bias=False,
        head_bias=True,
    )


def _weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(
        model={"transformer.wte": "embedding", "transformer.ln_f": "norm"},
        layer="transformer.h.{}",
        parts={
            "ln_1": "attention_norm",
            "attn.out_proj": "attention.out",
            "mlp.fc_in": "mlp.up",
            "mlp.fc_out": "mlp.down",
        },
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        gates=(),
        prefixes=("transformer.",),
        fields=GPT_FIELDS,
    )
    return decoder_weight_map(config, names)


FAMILIES = {"gptj": Family("GPTJForCausalLM", read_gptj_config, Decoder, _weights)}
