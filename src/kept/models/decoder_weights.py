"""Where the tensors of a decoder's checkpoint go, told by what a family calls its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kept.models.decoder_config import DecoderConfig
from kept.models.weight_map import Placement, WeightMap

# What most families call the parts of a layer, by where they go.
LLAMA_PARTS: Mapping[str, str] = {
    "input_layernorm": "attention_norm",
    "self_attn.o_proj": "attention.out",
    "post_attention_layernorm": "mlp_norm",
    "mlp.down_proj": "mlp.down",
}
SPLIT_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
SPLIT_GATES = ("mlp.gate_proj", "mlp.up_proj")
# The fields of config.json that decide the shape of a part, for errors.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"),
    "out": ("num_attention_heads", "head_dim", "hidden_size"),
    "up": ("intermediate_size", "hidden_size"),
    "down": ("intermediate_size", "hidden_size"),
    "head": ("vocab_size", "hidden_size"),
    "embedding": ("vocab_size", "hidden_size"),
    "positions": ("max_position_embeddings", "hidden_size"),
    "q_norm": ("num_attention_heads", "head_dim"),
    "k_norm": ("num_key_value_heads", "head_dim"),
}


@dataclass(frozen=True, kw_only=True)
class StoredNames:
    """What a family's files call the parts of a model.

    model: of the whole; layer: the place of layer {}; parts: of a layer, stored name to kept's.
    qkv: the tensors that are the queries, keys and values, or the one that holds them all, with
    `parts`; gates: those that are gate and up, likewise. grouped: how many groups of heads that one
    tensor goes by, each of its queries, then its key, then its value; None: all queries, all keys,
    all values. prefixes: see `WeightMap`. fields: what the family calls a field of config.json.
    aliases: see `WeightMap`.
    """

    model: Mapping[str, str] = field(
        default_factory=lambda: {"model.embed_tokens": "embedding", "model.norm": "norm"}
    )
    head: str = "lm_head"
    layer: str = "model.layers.{}"
    parts: Mapping[str, str] = field(default_factory=lambda: LLAMA_PARTS)
    qkv: tuple[str, ...] = SPLIT_QKV
    gates: tuple[str, ...] = SPLIT_GATES
    grouped: int | None = None
    prefixes: tuple[str, ...] = ("model.",)
    fields: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


def decoder_weight_map(config: DecoderConfig, names: StoredNames) -> WeightMap:
    """Where the tensors of a checkpoint go that a family names so."""
    found: dict[str, Placement] = {}

    def put(stored: str, part: str, here: str, rows: slice | None = None) -> None:
        fields = _FIELDS.get(part.rpartition(".")[2], ("hidden_size",))
        spelled = tuple(names.fields.get(x, x) for x in fields)
        groups = names.grouped if part == "attention.qkv" and rows is None else None
        grouped = None if groups is None else (groups, config.head_dim)
        for kind in ("weight", "bias") if config.has_bias(part) else ("weight",):
            found[f"{stored}.{kind}"] = Placement(
                f"{here}.{kind}", rows, config_fields=spelled, grouped=grouped
            )

    for stored, part in names.model.items():
        put(stored, part, part)
    put(names.head, "head", "head")
    for layer in range(config.num_layers):
        there, here = names.layer.format(layer), f"blocks.{layer}"
        for stored, part in names.parts.items():
            put(f"{there}.{stored}", part, f"{here}.{part}")
        for stored, rows in _split(config, names).items():
            part = "attention.qkv" if stored in names.qkv else "mlp.up"
            put(f"{there}.{stored}", part, f"{here}.{part}", rows)
    tied = {
        f"{names.head}.weight",
        *(f"{k}.weight" for k, v in names.model.items() if v == "embedding"),
    }
    return WeightMap(
        found,
        optional=frozenset(tied) if config.tied else frozenset(),
        ignored=(r"rotary_emb\.inv_freq$", *names.ignored),
        prefixes=names.prefixes,
        aliases=names.aliases,
    )


def _split(config: DecoderConfig, names: StoredNames) -> dict[str, slice | None]:
    """The rows of one of kept's matrices that each of several stored ones fills."""
    found: dict[str, slice | None] = {}
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    for stored, sizes in ((names.qkv, (q, kv, kv)), (names.gates, (config.mlp_size,) * 2)):
        if len(stored) == 1:
            found[stored[0]] = None
            continue
        begin = 0
        for name, size in zip(stored, sizes, strict=False):
            found[name] = slice(begin, begin + size)
            begin += size
    return found
