"""What families that are a Llama but for a few things have in common with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kept.models.decoder_config import DecoderConfig, read_sizes
from kept.models.fields import Fields
from kept.models.rope_config import read_rope
from kept.ops import ACTIVATIONS

SLIDING = "sliding_attention"
LAYER_TYPES = ("full_attention", SLIDING)
# What transformers' Llama, and classes after it, take for sizes that config.json leaves out.
LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def read_gated(
    fields: Fields,
    defaults: Mapping[str, int | None],
    *,
    eps: float = 1e-6,
    theta: float = 10000.0,
    partial: float | None = None,
    tied: bool = False,
    inner: Fields | None = None,
    activation: str = "silu",
) -> DecoderConfig:
    """A decoder with root-mean-square norms in front, gates, and rotary positions in all layers.

    defaults: see `read_sizes`; among them `max_position_embeddings`. eps, theta, tied, activation:
    of what config.json leaves out. partial, inner: see `read_rope`.
    """
    sizes = read_sizes(fields, defaults)
    width, layers = sizes["head_dim"], sizes["num_layers"]
    positions = fields.integer("max_position_embeddings", defaults["max_position_embeddings"])
    rope, context = read_rope(
        fields, width, positions, inner=inner, default_theta=theta, partial=partial
    )
    return DecoderConfig(
        **sizes,
        context=context,
        norm="rms",
        norm_eps=fields.number("rms_norm_eps", eps),
        order="before",
        activation=fields.choice("hidden_act", activation, ACTIVATIONS),
        gated=True,
        tied=fields.flag("tie_word_embeddings", tied),
        scale=width**-0.5,
        windows=(None,) * layers,
        ropes=(rope,),
        turns=(0,) * layers,
    )


def read_window(fields: Fields, default: int | None) -> int | None:
    """`sliding_window`, where null is none and left out is `default`."""
    if fields.given("sliding_window") and not fields.has("sliding_window"):
        return None
    if default is None and not fields.has("sliding_window"):
        return None
    return fields.integer("sliding_window", default)


def read_layer_windows(
    fields: Fields, window: int | None, by_default: Sequence[int | None]
) -> tuple[int | None, ...]:
    """The window of each layer by `layer_types`, or what holds where config.json has none."""
    types = fields.strings("layer_types", len(by_default), choices=LAYER_TYPES)
    if types is None:
        return tuple(by_default)
    return tuple(window if t == SLIDING else None for t in types)
