"""GPT-Neo: a GPT-2 that does not scale its scores, with a window in every other layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kept.errors import CheckpointError
from kept.models.decoder import Decoder
from kept.models.decoder_config import DecoderConfig
from kept.models.decoder_weights import StoredNames, decoder_weight_map
from kept.models.families.ungated import read_ungated
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.weight_map import WeightMap

_DEFAULTS = {
    "vocab_size": 50257,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
}
_NAMES = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}


def read_gpt_neo_config(config: dict[str, Any]) -> DecoderConfig:
    """Read config.json of model type gpt_neo."""
    fields = Fields(config)
    found = read_ungated(
        fields, _DEFAULTS, _NAMES, order="before", activation="gelu_new", tied=True
    )
    window = fields.integer("window_size", 256)
    kinds = _kinds(config.get("attention_types"), found.num_layers)
    return replace(
        found,
        scale=1.0,
        positions_from=0,
        windows=tuple(window if kind == "local" else None for kind in kinds),
        qkv_bias=False,
    )


def _kinds(groups: Any, layers: int) -> Sequence[str]:
    """ "global" or "local" of each layer: `attention_types` lists [[kinds], how often] pairs."""
    if groups is None:
        groups = [[["global", "local"], 12]]
    found: list[str] = []
    wrong = CheckpointError(
        f"config.json has attention_types = {str(groups)[:200]}, which must be a list of pairs, "
        f'some of "global" and "local" and how often they come, for {layers} layers in all'
    )
    if not isinstance(groups, list):
        raise wrong
    for group in groups:
        if not isinstance(group, list) or len(group) != 2 or not isinstance(group[0], list):
            raise wrong
        kinds, count = group
        if (
            type(count) is not int
            or not 0 <= count <= layers
            or not set(map(str, kinds)) <= {"global", "local"}
        ):
            raise wrong
        found += kinds * count
    if len(found) != layers:
        raise wrong
    return found


def _weights(config: DecoderConfig) -> WeightMap:
    names = StoredNames(
        model={
            "transformer.wte": "embedding",
            "transformer.wpe": "positions",
            "transformer.ln_f": "norm",
        },
        layer="transformer.h.{}",
        parts={
            "ln_1": "attention_norm",
            "attn.attention.out_proj": "attention.out",
            "ln_2": "mlp_norm",
            "mlp.c_fc": "mlp.up",
            "mlp.c_proj": "mlp.down",
        },
        qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        gates=(),
        prefixes=("transformer.",),
        fields=_NAMES,
        ignored=(r"\.attn\.attention\.(masked_)?bias$",),
    )
    return decoder_weight_map(config, names)


FAMILIES = {"gpt_neo": Family("GPTNeoForCausalLM", read_gpt_neo_config, Decoder, _weights)}
