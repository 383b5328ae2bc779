"""What config.json says of a T5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kept.cache import KVShape
from kept.errors import CheckpointError, UnsupportedModelError
from kept.models.fields import MAX_HEAD, MAX_LAYERS, Fields
from kept.ops import ACTIVATIONS


@dataclass(frozen=True)
class T5Config:
    """What config.json says of a T5. num_layers: of the decoder. context: what it was trained on;
    positions are relative, so an input may be longer."""

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_encoder_layers: int
    num_heads: int
    head_dim: int
    context: int
    num_buckets: int
    max_distance: int
    norm_eps: float
    activation: str
    gated: bool
    tied: bool
    output_scale: float
    start_token_id: int

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token, and each cross layer per token of the input."""
        own = KVShape(self.num_heads, self.head_dim)
        cross = KVShape(self.num_heads, self.head_dim, cross=True)
        return (own,) * self.num_layers + (cross,) * self.num_layers


def read_t5_config(config: dict[str, Any]) -> T5Config:
    """Read config.json of model type t5."""
    fields = Fields(config)
    hidden = fields.integer("d_model", 512)
    encoder_layers = fields.integer("num_layers", 6, maximum=MAX_LAYERS)
    gated, activation = _feed_forward(config.get("feed_forward_proj", "relu"))
    # transformers 5 calls every T5 tied, and says of v1.1 that its outputs are not scaled; a head
    # in the file that is not the table is loaded all the same.
    tied = fields.flag("tie_word_embeddings", True)
    scaled = fields.flag("scale_decoder_outputs", tied)
    buckets = fields.integer("relative_attention_num_buckets", 32, minimum=4)
    distance = fields.integer("relative_attention_max_distance", 128)
    if distance <= buckets // 2:
        raise CheckpointError(
            f"config.json has relative_attention_max_distance = {distance}, which must be more "
            f"than half of relative_attention_num_buckets = {buckets}"
        )
    vocabulary = fields.integer("vocab_size", 32128)
    start = fields.integer("pad_token_id", 0, minimum=0)
    return T5Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        mlp_size=fields.integer("d_ff", 2048),
        num_layers=fields.integer("num_decoder_layers", encoder_layers, maximum=MAX_LAYERS),
        num_encoder_layers=encoder_layers,
        num_heads=fields.integer("num_heads", 8),
        head_dim=fields.integer("d_kv", 64, maximum=MAX_HEAD),
        context=fields.integer("n_positions", 512),
        num_buckets=buckets,
        max_distance=distance,
        norm_eps=fields.number("layer_norm_epsilon", 1e-6),
        activation=activation,
        gated=gated,
        tied=tied,
        output_scale=hidden**-0.5 if scaled else 1.0,
        start_token_id=fields.integer(
            "decoder_start_token_id", start, minimum=0, maximum=vocabulary - 1
        ),
    )


def read_mt5_config(config: dict[str, Any]) -> T5Config:
    """Read config.json of model type mt5: a T5 v1.1 of more languages.

    Published configs say that the head is no table, which transformers overrules; either way a head
    in the file is loaded, and its outputs are never scaled.
    """
    usual = {
        "vocab_size": 250_112,
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
    }
    given = {name: value for name, value in config.items() if value is not None}
    return read_t5_config(
        {**usual, **given, "tie_word_embeddings": True, "scale_decoder_outputs": False}
    )


def _feed_forward(name: object) -> tuple[bool, str]:
    """Whether it is gated, and its activation. "gated-gelu" means the approximation, by T5 v1.1."""
    known = {
        **{a: (False, a) for a in ACTIVATIONS},
        **{f"gated-{a}": (True, a) for a in ACTIVATIONS},
    }
    known["gated-gelu"] = (True, "gelu_new")
    if not isinstance(name, str) or name not in known:
        raise UnsupportedModelError(
            f"config.json has feed_forward_proj = {name!r}, and kept runs {', '.join(known)}"
        )
    return known[name]
