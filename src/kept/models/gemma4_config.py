"""What config.json says of the text model of a Gemma 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kept.cache import KVShape
from kept.errors import CheckpointError
from kept.models.fields import MAX_HEAD, MAX_LAYERS, Fields
from kept.models.rope_config import PROPORTIONAL, RopeConfig, read_rope
from kept.ops import ACTIVATIONS

_WHOLE, _LOCAL = "full_attention", "sliding_attention"
_BIDIRECTIONAL = "where tokens see those after them, keys that are kept would be wrong"


@dataclass(frozen=True)
class Gemma4Layer:
    """One layer. width: of a head. turn: which rotary embedding. equal: values are keys before
    their norm and rotation. shares: the layer whose keys and values it attends; None: its own."""

    width: int
    num_kv_heads: int
    mlp_size: int
    window: int | None
    turn: int
    equal: bool
    shares: int | None


@dataclass(frozen=True)
class Gemma4Config:
    """What config.json says; input_size: of the vector that each layer has for a token, 0: none."""

    vocab_size: int
    hidden_size: int
    num_heads: int
    context: int
    norm_eps: float
    activation: str
    tied: bool
    bias: bool
    logit_cap: float | None
    input_size: int
    input_vocab: int
    ropes: tuple[RopeConfig, RopeConfig]
    layers: tuple[Gemma4Layer, ...]

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.layers)

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token."""
        return tuple(
            KVShape(x.num_kv_heads, x.width, x.window, shares=x.shares) for x in self.layers
        )


def read_gemma4_text_config(config: dict[str, Any]) -> Gemma4Config:
    """Read config.json of model type gemma4_text."""
    return _read(Fields(config))


def read_gemma4_config(config: dict[str, Any]) -> Gemma4Config:
    """Read config.json of model type gemma4, which also sees and hears: its text model alone."""
    outer = Fields(config)
    fields = outer.text_config()
    return _read(fields, tied=outer.flag("tie_word_embeddings", True))


def _read(fields: Fields, tied: bool | None = None) -> Gemma4Config:
    sees = "use_bidirectional_attention"
    if fields.has(sees) and fields.choice(sees, "vision", ("all", "vision")) == "all":
        fields.refuse(sees, "vision", _BIDIRECTIONAL)
    fields.refuse("enable_moe_block", False, "its MLPs are not chosen among experts")
    vocabulary = fields.integer("vocab_size", 262_144)
    input_size = fields.integer("hidden_size_per_layer_input", 256, minimum=0)
    layers, ropes = _read_layers(fields)
    cap = "final_logit_softcapping"
    return Gemma4Config(
        vocab_size=vocabulary,
        hidden_size=fields.integer("hidden_size", 2304),
        num_heads=fields.integer("num_attention_heads", 8),
        context=fields.integer("max_position_embeddings", 131_072),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        activation=fields.choice("hidden_activation", "gelu_pytorch_tanh", ACTIVATIONS),
        tied=fields.flag("tie_word_embeddings", True) if tied is None else tied,
        bias=fields.flag("attention_bias", False),
        logit_cap=fields.number(cap) if fields.has(cap) else None,
        input_size=input_size,
        # Every token needs its row.
        input_vocab=fields.integer("vocab_size_per_layer_input", 262_144, minimum=vocabulary)
        if input_size
        else 0,
        ropes=ropes,
        layers=layers,
    )


def _read_layers(
    fields: Fields,
) -> tuple[tuple[Gemma4Layer, ...], tuple[RopeConfig, RopeConfig]]:
    count = fields.integer("num_hidden_layers", 30, maximum=MAX_LAYERS)
    usual = [_WHOLE if (i + 1) % 6 == 0 else _LOCAL for i in range(count)]
    types = list(fields.strings("layer_types", count, choices=(_WHOLE, _LOCAL)) or usual)
    types[-1] = _WHOLE  # as transformers has it, whatever is said
    shares = read_sharing(fields, types, usual=0)
    heads = fields.integer("num_attention_heads", 8)
    size, wide = (
        fields.integer("intermediate_size", 9216),
        fields.flag("use_double_wide_mlp", False),
    )
    window, equal = fields.integer("sliding_window", 512), fields.flag("attention_k_eq_v", False)
    layers = []
    for i, kind in enumerate(types):
        width, kv_heads = _heads_of(fields, i, whole=kind == _WHOLE, equal=equal)
        if heads % kv_heads:
            raise CheckpointError(
                f"config.json has num_attention_heads = {heads}, which {kv_heads} key heads of "
                f"layer {i} do not divide"
            )
        layers.append(
            Gemma4Layer(
                width=width,
                num_kv_heads=kv_heads,
                mlp_size=size * (2 if shares[i] is not None and wide else 1),
                window=window if kind == _LOCAL else None,
                turn=int(kind == _LOCAL),
                equal=equal and kind == _WHOLE,
                shares=shares[i],
            )
        )
    widths = [layer.width for layer in layers]
    local = widths[types.index(_LOCAL)] if _LOCAL in types else widths[0]
    return tuple(layers), _read_ropes(fields, widths[types.index(_WHOLE)], local)


def read_sharing(fields: Fields, types: Sequence[str], *, usual: int) -> tuple[int | None, ...]:
    """Which layer's keys each of the last layers attends: the last of its type that has some of
    its own; None: its own. usual: how many share where `num_kv_shared_layers` does not say."""
    count = len(types)
    shared = fields.integer("num_kv_shared_layers", usual, minimum=0, maximum=count - 1)
    own = types[: count - shared]
    missing = sorted(set(types) - set(own))
    if missing:
        raise CheckpointError(
            f"config.json has num_kv_shared_layers = {shared}, but no layer before these is of "
            f"type {missing[0]!r} and stores what they would attend"
        )
    last = {kind: index for index, kind in enumerate(own)}
    return tuple(last[kind] if i >= len(own) else None for i, kind in enumerate(types))


def _heads_of(fields: Fields, layer: int, *, whole: bool, equal: bool) -> tuple[int, int]:
    """How wide a layer's heads are, and how many have keys: by layer, as transformers 5 writes it,
    or by fields of their own for the layers that see everything."""
    by_layer = fields.nested("per_layer_config")
    if by_layer is not None:
        own = by_layer.nested(str(layer)) or Fields({})
        return (
            own.integer("head_dim", fields.integer("head_dim", 256), maximum=MAX_HEAD),
            own.integer("num_key_value_heads", fields.integer("num_key_value_heads", 4)),
        )
    usual = fields.integer("num_key_value_heads", 4)
    if not whole:
        return fields.integer("head_dim", 256, maximum=MAX_HEAD), usual
    kv_heads = fields.integer("num_global_key_value_heads", usual) if equal else usual
    return fields.integer("global_head_dim", 512, maximum=MAX_HEAD), kv_heads


def _read_ropes(fields: Fields, whole: int, local: int) -> tuple[RopeConfig, RopeConfig]:
    """Of the layers that see everything, and of those with a window."""
    context = fields.integer("max_position_embeddings", 131_072)
    given = fields.nested("rope_parameters")
    by_type = given or Fields({})
    usual = {"rope_type": PROPORTIONAL, "partial_rotary_factor": 0.25, "rope_theta": 1e6}
    inner = by_type.nested(_WHOLE) or Fields(usual)
    if inner.choice("rope_type", "default", (PROPORTIONAL, "default", "linear")) == PROPORTIONAL:
        share = inner.number("partial_rotary_factor", 1.0)
        rope = RopeConfig(
            PROPORTIONAL,
            inner.number("rope_theta", 1e6),
            whole,
            context,
            factor=inner.number("factor", 1.0),
            turned=int(share * whole // 2),
        )
    else:
        rope, _ = read_rope(fields, whole, context, inner=inner)
    plain = by_type.nested(_LOCAL) or Fields({"rope_type": "default", "rope_theta": 1e4})
    return rope, read_rope(fields, local, context, inner=plain)[0]
