"""InternLM 2 and 2.5: a Llama under names of its own, whose queries, keys and values are one stored
matrix, group by group. transformers runs it by code out of the checkpoint's repository."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.gated import read_gated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 103168,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def read_internlm2_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type internlm2."""
    fields = Fields(config)
    bias = fields.flag("bias", True)
    return replace(read_gated(fields, _DEFAULTS), qkv_bias=bias, out_bias=bias)


def _weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(
        model={"model.tok_embeddings": "embedding", "model.norm": "norm"},
        head="output",
        parts={
            "attention_norm": "attention_norm",
            "attention.wo": "attention.out",
            "ffn_norm": "mlp_norm",
            "feed_forward.w2": "mlp.down",
        },
        qkv=("attention.wqkv",),
        gates=("feed_forward.w1", "feed_forward.w3"),
        grouped=config.num_kv_heads,
    )
    return decoder_weight_map(config, names)


FAMILIES = {"internlm2": Family("InternLM2ForCausalLM", read_internlm2_config, Decoder, _weights)}
