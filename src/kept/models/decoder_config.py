"""What a decoder is made of, whatever family it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kept.cache import KVShape
from kept.errors import CheckpointError
from kept.models.fields import MAX_HEAD, MAX_LAYERS, Fields
from kept.models.rope_config import RopeConfig

# root-mean-square; layer norm with weights and biases, with weights alone, with neither
NormKind = Literal["rms", "layer", "unbiased", "plain"]
# Where norms stand: in front of attention and MLP (x + f(norm(x))), behind them (x + norm(f(x))),
# or both; or in front of the two side by side, x + attention(norm(x)) + mlp(norm(x)), with one norm
# for both or one each; or behind the sums, norm(x + f(x)).
Order = Literal["before", "after", "around", "beside", "beside apart", "behind sums"]
# Of queries and keys before their rotation: over each head, over each head with weights of its own,
# or over all heads together.
HeadNorm = Literal["head", "own", "all"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a config.json comes to, in words that all families share.

    scale: what scores are multiplied with. ropes: the rotary embeddings there are; turns: (L,)
    which of them each layer rotates with, None: it does not. neighbours: see `HeadSpec`. windows:
    (L,). head_norm: None: there is none. slopes: (H,) of a bias by distance, or none of them.
    positions_from: row of a table of learned positions that the first token takes; None: there is
    no table. word_size: of the vectors of tokens, in their table and in front of the head, where
    matrices project those; None: hidden_size, and none does. embedding_norm: of the vectors of
    tokens. embedding_scale, residual_scale, logit_scale: what the vectors of tokens are multiplied
    with, what is added to the residual stream, and the logits.
    """

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context: int
    norm: NormKind
    norm_eps: float
    order: Order
    activation: str
    gated: bool
    tied: bool
    scale: float
    windows: tuple[int | None, ...]
    ropes: tuple[RopeConfig, ...] = ()
    turns: tuple[int | None, ...] = ()
    neighbours: bool = False
    head_norm: HeadNorm | None = None
    head_norm_kind: NormKind = "rms"
    slopes: tuple[float, ...] = ()
    positions_from: int | None = None
    word_size: int | None = None
    embedding_norm: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token."""
        return tuple(KVShape(self.num_kv_heads, self.head_dim, w) for w in self.windows)

    def has_bias(self, part: str) -> bool:
        """Whether a part of a model (`attention.qkv`, `mlp_norm`, ...) has biases."""
        name = part.rpartition(".")[2]
        if name in ("qkv", "out"):
            return self.qkv_bias if name == "qkv" else self.out_bias
        if name in ("q_norm", "k_norm"):
            return self.head_norm_kind == "layer"
        if name.endswith("norm"):
            return self.norm == "layer"
        if name in ("embedding", "positions", "project_in", "project_out"):
            return False
        return self.head_bias if name == "head" else self.mlp_bias


def read_sizes(
    fields: Fields, defaults: Mapping[str, int | None], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The sizes of a decoder, whole numbers by the names of `DecoderConfig`.

    defaults: what transformers' class takes where config.json leaves a field out, by its usual
    name; None for `num_key_value_heads`: as many as of queries. names: what this family calls a
    field, where that is another name.
    """
    spelled = names or {}

    def integer(name: str, default: int | None = None, maximum: int = 2**31 - 1) -> int:
        fallback = defaults.get(name, default)
        return fields.integer(spelled.get(name, name), fallback, maximum=maximum)

    hidden, heads = integer("hidden_size"), integer("num_attention_heads")
    kv_heads = integer("num_key_value_heads", heads)
    if defaults.get("num_key_value_heads") is not None and not fields.has("num_key_value_heads"):
        # null means as many as query heads; left out means what transformers' class would fill in.
        kv_heads = heads if fields.given("num_key_value_heads") else kv_heads
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json has {spelled.get('num_attention_heads', 'num_attention_heads')} = "
            f"{heads}, which num_key_value_heads = {kv_heads} does not divide"
        )
    return {
        "vocab_size": integer("vocab_size"),
        "hidden_size": hidden,
        "mlp_size": integer("intermediate_size"),
        "num_layers": integer("num_hidden_layers", maximum=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": integer("head_dim", max(hidden // heads, 1), maximum=MAX_HEAD),
    }
