"""What config.json says of the text model of a Gemma 3n."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from kept.errors import CheckpointError
from kept.models.fields import MAX_HEAD, MAX_LAYERS, Fields
from kept.models.gemma4_config import Gemma4Config, Gemma4Layer, read_sharing
from kept.models.rope_config import RopeConfig, read_rope
from kept.ops import ACTIVATIONS, MAX_STREAMS

_WHOLE, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Gemma3nConfig(Gemma4Config):
    """What a Gemma 4 says, and of its streams (AltUp) and side layers (LAuReL).

    num_streams: S. active: the stream that layers read and write. rank: of the side layers.
    deviations: (L,) how many standard deviations above the mean of a row gates have to lie; None:
    all gates count. scales_active: whether what the token's vectors are gated by is scaled.
    """

    num_streams: int
    active: int
    rank: int
    deviations: tuple[float | None, ...]
    scales_active: bool


def read_gemma3n_text_config(config: dict[str, Any]) -> Gemma3nConfig:
    """Read config.json of model type gemma3n_text."""
    return _read(Fields(config))


def read_gemma3n_config(config: dict[str, Any]) -> Gemma3nConfig:
    """Read config.json of model type gemma3n, which also sees and hears: its text model alone."""
    outer = Fields(config)
    fields = outer.text_config()
    return _read(fields, tied=outer.flag("tie_word_embeddings", True))


def _read(fields: Fields, tied: bool | None = None) -> Gemma3nConfig:
    fields.refuse(
        "use_bidirectional_attention",
        False,
        "where tokens see those after them, keys that are kept would be wrong",
    )
    width, context = (
        fields.integer("hidden_size", 2048),
        fields.integer("max_position_embeddings", 32_768),
    )
    layers = _read_layers(fields)
    streams = fields.integer("altup_num_inputs", 4, maximum=MAX_STREAMS)
    cap = fields.number("final_logit_softcapping", 30.0)
    return Gemma3nConfig(
        vocab_size=fields.integer("vocab_size", 262_400),
        hidden_size=width,
        num_heads=fields.integer("num_attention_heads", 8),
        context=context,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        activation=fields.choice("hidden_activation", "gelu_pytorch_tanh", ACTIVATIONS),
        tied=fields.flag("tie_word_embeddings", True) if tied is None else tied,
        bias=fields.flag("attention_bias", False),
        logit_cap=cap,
        input_size=fields.integer("hidden_size_per_layer_input", 256),
        input_vocab=fields.integer("vocab_size_per_layer_input", 262_144),
        ropes=_read_ropes(fields, layers[0].width, context),
        layers=layers,
        num_streams=streams,
        active=fields.integer("altup_active_idx", 0, minimum=0, maximum=streams - 1),
        rank=fields.integer("laurel_rank", 64),
        deviations=_read_deviations(fields, len(layers)),
        scales_active=fields.flag("altup_correct_scale", True),
    )


def _read_layers(fields: Fields) -> tuple[Gemma4Layer, ...]:
    count = fields.integer("num_hidden_layers", 35, maximum=MAX_LAYERS)
    usual = [_WHOLE if (i + 1) % 5 == 0 else _LOCAL for i in range(count)]
    types = list(fields.strings("layer_types", count, choices=(_WHOLE, _LOCAL)) or usual)
    shares = read_sharing(fields, types, usual=15)
    heads = fields.integer("num_attention_heads", 8)
    kv_heads = fields.integer("num_key_value_heads", 2)
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json has num_attention_heads = {heads}, which num_key_value_heads = "
            f"{kv_heads} does not divide"
        )
    width = fields.integer("head_dim", 256, maximum=MAX_HEAD)
    window = fields.integer("sliding_window", 512)
    return tuple(
        Gemma4Layer(
            width=width,
            num_kv_heads=kv_heads,
            mlp_size=size,
            window=window if kind == _LOCAL else None,
            turn=int(kind == _LOCAL),
            equal=False,
            shares=shares[i],
        )
        for i, (kind, size) in enumerate(zip(types, _sizes(fields, count), strict=True))
    )


def _sizes(fields: Fields, count: int) -> tuple[int, ...]:
    """Of the MLPs: one number, or one for each layer."""
    name = "intermediate_size"
    if not fields.is_list(name):
        return (fields.integer(name, 16_384),) * count
    found = fields.sizes(name) or ()
    if len(found) != count:
        raise CheckpointError(
            f"config.json has {len(found)} sizes in {name}, which has one for each of its {count} "
            "layers, or one number for all"
        )
    return found


def _read_deviations(fields: Fields, count: int) -> tuple[float | None, ...]:
    """From the share of gates that are to be left out, if they were normally distributed."""
    name = "activation_sparsity_pattern"
    usual = [0.95] * (10 if count > 10 else 0)
    shares: tuple[float, ...] = (*usual, *[0.0] * (count - len(usual)))
    if fields.is_list(name):
        shares = fields.numbers(name, count, positive=False)
    elif fields.has(name):
        shares = (fields.number(name, positive=False),) * count
    wrong = next((x for x in shares if not 0 <= x < 1), None)
    if wrong is not None:
        raise CheckpointError(f"config.json has {wrong} in {name}, whose shares are from 0 to 1")
    return tuple(NormalDist().inv_cdf(x) if x > 0 else None for x in shares)


def _read_ropes(fields: Fields, width: int, context: int) -> tuple[RopeConfig, RopeConfig]:
    """Of the layers that see everything, and of those with a window: by type since transformers 5,
    or as `rope_theta`, `rope_scaling` and `rope_local_base_freq`."""
    by_type = fields.nested("rope_parameters") or Fields({})
    scaling = (fields.nested("rope_scaling") or Fields({})).over(
        by_type.nested(_WHOLE) or Fields({})
    )
    whole, _ = read_rope(fields, width, context, inner=scaling, default_theta=1e6)
    base = Fields({"rope_theta": fields.number("rope_local_base_freq", 1e4)})
    inner = (by_type.nested(_LOCAL) or Fields({})).over(base)
    return whole, read_rope(fields, width, context, inner=inner)[0]
