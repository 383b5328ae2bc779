"""T5: v1.0, v1.1 and Flan. Positions are a bias on the scores by distance, scores are not scaled.

    encoder    x + attention(norm(x)),  x + mlp(norm(x))                  every token sees all
    decoder    x + attention(norm(x)),  x + cross(norm(x)),  x + mlp(norm(x))

v1.0 has one matrix before the activation and an output layer that is the embedding's table, scaled;
v1.1 has gates and an output layer of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kept import ops
from kept.batch import Batch, Source
from kept.cache import KVShape, LayerStore, stores
from kept.errors import CheckpointError, ContextLengthError, UnsupportedModelError
from kept.format import format_bytes
from kept.machine import describe_machine
from kept.models.encoder_decoder import EncoderDecoderLM
from kept.models.fields import MAX_HEAD, MAX_LAYERS, Fields
from kept.models.layers import Embedding, Linear, RMSNorm, attend, attend_input
from kept.models.record import Record
from kept.models.weight_map import Placement, WeightMap
from kept.ops import ACTIVATIONS, AttentionSpec, HeadSpec, RelativeBias, Rope

ENCODER_ROWS = 2048  # tokens of inputs that the encoder reads side by side, or one input


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


class T5Attention(nn.Module):
    """Attention over a sequence's own tokens, with a bias by distance."""

    def __init__(self, config: T5Config, causal: bool) -> None:
        super().__init__()
        heads, width = config.num_heads, config.head_dim
        self.heads = HeadSpec(heads, heads, width)
        self.spec = AttentionSpec(1.0, causal=causal)
        self.qkv = Linear(config.hidden_size, 3 * heads * width, bias=False)
        self.out = Linear(heads * width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, bias: RelativeBias, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        q, k, v = ops.split_heads(self.qkv(x), self.heads)
        out: Tensor = self.out(attend(q, k, v, store, self.spec, record, bias))
        return out


class T5CrossAttention(nn.Module):
    """Attention over what the encoder has made of an input: all of it, wherever it stands."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        heads, width = config.num_heads, config.head_dim
        self.head_dim = width
        self.spec = AttentionSpec(1.0, causal=False)
        self.q = Linear(config.hidden_size, heads * width, bias=False)
        self.kv = Linear(config.hidden_size, 2 * heads * width, bias=False)
        self.out = Linear(heads * width, config.hidden_size, bias=False)

    def keys(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (M, H, D) of the encoder's output (M, E)."""
        k, v = self.kv(states).unflatten(1, (-1, self.head_dim)).chunk(2, dim=1)
        return k, v

    def forward(
        self, x: Tensor, store: LayerStore, states: Tensor | None, record: Record
    ) -> Tensor:
        """x: (N, E) -> (N, E). states: (M, E) the encoder's output; None: the store has it."""
        view = store.read() if states is None else store.append(*self.keys(states))
        q = self.q(x).unflatten(1, (-1, self.head_dim))
        out: Tensor = self.out(attend_input(q, view, self.spec, record))
        return out


class T5MLP(nn.Module):
    """down(act(up(x))), or with gates down(act(gate(x)) * up(x)); one matrix makes both."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        count = (2 if config.gated else 1) * config.mlp_size
        self.up = Linear(config.hidden_size, count, bias=False, gated=config.gated)
        self.down = Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        act = ops.gated if self.gated else ops.activate
        out: Tensor = self.down(act(self.up(x), self.activation))
        return out


class T5EncoderBlock(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        self.attention_norm, self.attention = RMSNorm(width, eps), T5Attention(config, causal=False)
        self.mlp_norm, self.mlp = RMSNorm(width, eps), T5MLP(config)

    def forward(self, x: Tensor, bias: RelativeBias, store: LayerStore, record: Record) -> Tensor:
        """x: (M, E) -> (M, E)."""
        x = x + self.attention(self.attention_norm(x), bias, store, record)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class T5DecoderBlock(nn.Module):
    """See the module's drawing."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        self.attention_norm, self.attention = RMSNorm(width, eps), T5Attention(config, causal=True)
        self.cross_norm, self.cross = RMSNorm(width, eps), T5CrossAttention(config)
        self.mlp_norm, self.mlp = RMSNorm(width, eps), T5MLP(config)

    def forward(
        self,
        x: Tensor,
        bias: RelativeBias,
        store: LayerStore,
        cross: LayerStore,
        states: Tensor | None,
        record: Record,
    ) -> Tensor:
        """x: (N, E) -> (N, E). states: see `T5CrossAttention`."""
        x = x + self.attention(self.attention_norm(x), bias, store, record)
        x = x + self.cross(self.cross_norm(x), cross, states, record)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class T5Encoder(nn.Module):
    """All of an input's tokens to vectors; stored nowhere."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.max_distance = config.max_distance
        self.shapes = (KVShape(config.num_heads, config.head_dim),) * config.num_encoder_layers
        self.bias = Embedding(config.num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(
            T5EncoderBlock(config) for _ in range(config.num_encoder_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, batch: Batch, record: Record) -> Tensor:
        """x: (M, E), the vectors of the batch's tokens -> (M, E)."""
        bias = RelativeBias(self.bias.weight, self.max_distance, bidirectional=True)
        with stores(None, batch, self.shapes) as found:
            for block, store in zip(self.blocks, found, strict=True):
                record.take_hidden(x)
                x = block(x, bias, store, record)
        x = self.norm(x)
        record.take_hidden(x)
        return x


class T5(EncoderDecoderLM):
    """A T5 encoder and decoder."""

    too_narrow = (torch.float16,)
    not_evicting = (
        "T5's scores depend on how far apart tokens are, and an evicting cache closes the gaps of "
        "those that leave"
    )

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.max_distance, self.output_scale = config.max_distance, config.output_scale
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.encoder = T5Encoder(config)
        self.bias = Embedding(config.num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(T5DecoderBlock(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight

    def embed(self, batch: Batch) -> tuple[Tensor, Rope]:
        """Token vectors (N, E); their places are seen in attention."""
        return self.embedding(batch.tokens), None

    def shared(self) -> RelativeBias:
        """The bias of all blocks."""
        return RelativeBias(self.bias.weight, self.max_distance, bidirectional=False)

    def encode(self, source: Source, record: Record) -> Tensor:
        """See `EncoderDecoderLM.encode`; so many inputs at a time as ENCODER_ROWS allows.

        What is to be recorded is read in one pass. Raises ContextLengthError for an input whose
        attention this machine's memory cannot hold.
        """
        self._check_length(max(source.lengths))
        recorded = record.want_hidden or record.want_attention
        cuts = [source.num_inputs] if recorded else list(_cuts(source.lengths))
        states = [
            self.encoder(self.embedding(part.tokens), part, record)
            for part in (_part(source, a, b) for a, b in pairwise([0, *cuts]))
        ]
        return states[0] if len(states) == 1 else torch.cat(states)

    def _check_length(self, length: int) -> None:
        """No length is too long for relative positions, but every pair of tokens has a bias."""
        if length <= ENCODER_ROWS or self.device.type != "cpu":
            return
        config, room = self.config, describe_machine().total_memory
        assert isinstance(config, T5Config)
        # Its bias for each head, and the distances and buckets that it is looked up by.
        need = length**2 * (config.num_heads * self.dtype.itemsize + 5 * torch.int64.itemsize)
        if room is not None and need > room:
            raise ContextLengthError(
                f"an input of {length:,} tokens takes {format_bytes(need)} for the attention of "
                f"each to each, and this machine has {format_bytes(room)}; cut it into parts (the "
                f"model was trained on {config.context:,} tokens)"
            )

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x * self.output_scale)


def _cuts(lengths: tuple[int, ...]) -> Iterator[int]:
    """Where the inputs of one pass of the encoder end."""
    rows = 0
    for number, length in enumerate(lengths):
        if rows and rows + length > ENCODER_ROWS:
            yield number
            rows = 0
        rows += length
    yield len(lengths)


def _part(source: Source, begin: int, end: int) -> Batch:
    """Inputs begin to end as a batch of their own."""
    first, last = source.starts[begin], source.starts[end]
    lengths = source.lengths[begin:end]
    return Batch(
        tokens=source.tokens[first:last],
        positions=torch.arange(last - first, device=source.tokens.device),
        starts=tuple(start - first for start in source.starts[begin : end + 1]),
        slots=tuple(range(end - begin)),
        totals=lengths,
    )


def t5_weight_map(config: T5Config) -> WeightMap:
    """Where the tensors of a T5 checkpoint go. Files name the one table of tokens several times."""
    vocabulary = ("vocab_size", "d_model")
    tables = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    placements = {name: Placement("embedding.weight", config_fields=vocabulary) for name in tables}
    placements["lm_head.weight"] = Placement("head.weight", config_fields=vocabulary)
    for stack, here, layers in (
        ("encoder", "encoder.", config.num_encoder_layers),
        ("decoder", "", config.num_layers),
    ):
        placements[f"{stack}.final_layer_norm.weight"] = Placement(f"{here}norm.weight")
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        placements[first] = Placement(
            f"{here}bias.weight", config_fields=("relative_attention_num_buckets", "num_heads")
        )
        for layer in range(layers):
            there = f"{stack}.block.{layer}.layer"
            block = f"{here}blocks.{layer}"
            placements |= _block_placements(config, there, block, stack == "decoder")
    tied = {"lm_head.weight"} if config.tied else set()
    scaled = config.output_scale != 1.0
    return WeightMap(
        placements,
        optional=frozenset({*tables, *tied}),
        # An old conversion left a bias that nothing reads.
        ignored=(r"EncDecAttention\.relative_attention_bias\.weight$",),
        may_untie=not scaled,
    )


def _block_placements(
    config: T5Config, there: str, here: str, decoder: bool
) -> dict[str, Placement]:
    inner = config.num_heads * config.head_dim
    fields = ("num_heads", "d_kv", "d_model")
    modules = [(f"{there}.0.SelfAttention", "attention", "qkv")]
    if decoder:
        modules.append((f"{there}.1.EncDecAttention", "cross", "kv"))
    found = {}
    for index, (module, name, fused) in enumerate(modules):
        for i, which in enumerate(fused):
            rows = slice(i * inner, (i + 1) * inner)
            found[f"{module}.{which}.weight"] = Placement(
                f"{here}.{name}.{fused}.weight", rows, config_fields=fields
            )
        found[f"{module}.o.weight"] = Placement(f"{here}.{name}.out.weight", config_fields=fields)
        norm = f"{here}.{name}_norm.weight"
        found[f"{there}.{index}.layer_norm.weight"] = Placement(norm, config_fields=("d_model",))
    if decoder:
        found[f"{there}.1.EncDecAttention.q.weight"] = Placement(
            f"{here}.cross.q.weight", config_fields=fields
        )
    return found | _mlp_placements(config, f"{there}.{len(modules)}", here)


def _mlp_placements(config: T5Config, there: str, here: str) -> dict[str, Placement]:
    size, fields, mlp = config.mlp_size, ("d_ff", "d_model"), f"{there}.DenseReluDense"
    found = {
        f"{there}.layer_norm.weight": Placement(f"{here}.mlp_norm.weight"),
        f"{mlp}.wo.weight": Placement(f"{here}.mlp.down.weight", config_fields=fields),
    }
    names = ("wi_0", "wi_1") if config.gated else ("wi",)
    for i, name in enumerate(names):
        rows = slice(i * size, (i + 1) * size) if config.gated else None
        found[f"{mlp}.{name}.weight"] = Placement(
            f"{here}.mlp.up.weight", rows, config_fields=fields
        )
    return found
