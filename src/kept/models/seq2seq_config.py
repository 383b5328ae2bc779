"""What an encoder and a decoder in the manner of BART are made of, whatever family they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kept.cache import KVShape
from kept.errors import CheckpointError
from kept.models.fields import MAX_LAYERS, Fields
from kept.models.positions import PositionKind
from kept.ops import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """What a config.json comes to, in words that all families share.

    num_layers, num_heads, mlp_size: of the decoder. context: how many tokens of an input, and of a
    text, there are positions for. norms_first: norms stand before attentions and MLP,
    x + f(norm(x)), and one behind all blocks; else behind the sums, norm(x + f(x)). embedding_norm:
    of the vectors of tokens with their positions. embedding_scale: what the vectors of tokens are
    multiplied with. positions_from: row of the table of positions that the first token takes.
    logit_bias: whether logits take on one.
    """

    vocab_size: int
    hidden_size: int
    mlp_size: int
    encoder_mlp_size: int
    num_layers: int
    num_encoder_layers: int
    num_heads: int
    num_encoder_heads: int
    context: int
    activation: str
    norms_first: bool
    embedding_norm: bool
    embedding_scale: float
    positions: PositionKind
    positions_from: int
    logit_bias: bool
    tied: bool
    start_token_id: int

    @property
    def head_dim(self) -> int:
        """D of the decoder's layers."""
        return self.hidden_size // self.num_heads

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token, and each cross layer per token of the input."""
        own = KVShape(self.num_heads, self.head_dim)
        cross = KVShape(self.num_heads, self.head_dim, cross=True)
        return (own,) * self.num_layers + (cross,) * self.num_layers


@dataclass(frozen=True, kw_only=True)
class Seq2SeqFamily:
    """What a family of them fixes, see `Seq2SeqConfig`, and the defaults of its class.

    start_token_id: None: it is `bos_token_id`. flags: fields that transformers 3 went by, and later
    ones pass over, with what they say of this family.
    """

    norms_first: bool
    embedding_norm: bool
    positions: PositionKind
    positions_from: int
    logit_bias: bool
    vocab_size: int
    activation: str = "gelu"
    scales: bool = False
    start_token_id: int | None = 2
    flags: Mapping[str, bool] = field(default_factory=dict)


_FLAGS = "transformers runs every model of this model_type so, whatever the field says"


def read_seq2seq(fields: Fields, family: Seq2SeqFamily) -> Seq2SeqConfig:
    """Read config.json.

    Raises CheckpointError for a field that is missing or wrong, UnsupportedModelError for one that
    asks for what the family does not do.
    """
    for name, value in family.flags.items():
        fields.refuse(name, value, _FLAGS)
    width = fields.integer("d_model", 1024, minimum=4)
    vocabulary = fields.integer("vocab_size", family.vocab_size)
    scales = fields.flag("scale_embedding", family.scales)
    start = family.start_token_id
    if start is None:
        start = fields.integer("bos_token_id", 0, minimum=0)
    return Seq2SeqConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        mlp_size=fields.integer("decoder_ffn_dim", 4096),
        encoder_mlp_size=fields.integer("encoder_ffn_dim", 4096),
        num_layers=fields.integer("decoder_layers", 12, maximum=MAX_LAYERS),
        num_encoder_layers=fields.integer("encoder_layers", 12, maximum=MAX_LAYERS),
        num_heads=_heads(fields, "decoder_attention_heads", width),
        num_encoder_heads=_heads(fields, "encoder_attention_heads", width),
        context=fields.integer("max_position_embeddings", 1024),
        activation=fields.choice("activation_function", family.activation, ACTIVATIONS),
        norms_first=family.norms_first,
        embedding_norm=family.embedding_norm,
        embedding_scale=width**0.5 if scales else 1.0,
        positions=family.positions,
        positions_from=family.positions_from,
        logit_bias=family.logit_bias,
        tied=fields.flag("tie_word_embeddings", True),
        start_token_id=fields.integer(
            "decoder_start_token_id", start, minimum=0, maximum=vocabulary - 1
        ),
    )


def _heads(fields: Fields, name: str, width: int) -> int:
    heads = fields.integer(name, 16)
    if width % heads:
        raise CheckpointError(
            f"config.json has d_model = {width}, which {name} = {heads} does not divide"
        )
    return heads
