"""The Llama family: Llama 2, 3 and 3.1+, Mistral, Qwen 2, 2.5 and 3.

They differ in what their configs say: biases, query and key norms, a window, rotary scaling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kept import ops
from kept.cache import KVShape, LayerStore
from kept.errors import CheckpointError
from kept.models.fields import MAX_HEAD, MAX_LAYERS, Fields
from kept.models.layers import Embedding, GatedMLP, Linear, RMSNorm, attend
from kept.models.record import Record
from kept.models.rope_config import RopeConfig, read_rope
from kept.models.rotary_model import RotaryModel
from kept.models.weight_map import Placement, WeightMap
from kept.ops import ACTIVATIONS, AttentionSpec, HeadSpec, Rope

# What transformers' classes take for fields that config.json leaves out.
KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
CONTEXTS = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class LlamaConfig:
    """What config.json says of a model of this family; windows has one entry per layer."""

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context: int
    rope: RopeConfig
    norm_eps: float
    activation: str
    tied: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token."""
        return tuple(KVShape(self.num_kv_heads, self.head_dim, w) for w in self.windows)


def read_llama_config(config: dict[str, Any]) -> LlamaConfig:
    """Read config.json of model types llama, mistral, qwen2 and qwen3."""
    fields = Fields(config)
    family = str(config.get("model_type"))
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    # Qwen 3 has a default of its own; the others divide the width.
    default = 128 if family == "qwen3" else max(hidden // heads, 1)
    head_dim = fields.integer("head_dim", default, maximum=MAX_HEAD)
    layers = fields.integer("num_hidden_layers", maximum=MAX_LAYERS)
    kv_heads = _kv_heads(fields, family, heads)
    positions = fields.integer("max_position_embeddings", CONTEXTS[family])
    rope, context = read_rope(fields, head_dim, positions)
    bias = fields.flag("attention_bias", False) if family in ("llama", "qwen3") else False
    return LlamaConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        mlp_size=fields.integer("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context=context,
        rope=rope,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        activation=fields.choice("hidden_act", "silu", ACTIVATIONS),
        tied=fields.flag("tie_word_embeddings", False),
        qkv_bias=bias or family == "qwen2",
        out_bias=bias,
        mlp_bias=family == "llama" and fields.flag("mlp_bias", False),
        qk_norm=family == "qwen3",
        windows=_windows(fields, family, layers),
    )


def _kv_heads(fields: Fields, family: str, heads: int) -> int:
    # null means as many as query heads; left out means what transformers' class would fill in.
    default = heads if fields.given("num_key_value_heads") else KV_HEADS.get(family, heads)
    kv_heads = fields.integer("num_key_value_heads", default)
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json has num_attention_heads = {heads}, which num_key_value_heads = "
            f"{kv_heads} does not divide"
        )
    return kv_heads


def _windows(fields: Fields, family: str, layers: int) -> tuple[int | None, ...]:
    if family == "llama":
        return (None,) * layers
    if family != "mistral" and not fields.flag("use_sliding_window", False):
        return (None,) * layers
    # A config that leaves the window out has transformers' default; one that says null has none.
    none = fields.given("sliding_window") and not fields.has("sliding_window")
    window = None if none else fields.integer("sliding_window", 4096)
    if family == "mistral":
        return (window,) * layers
    types = fields.strings("layer_types", layers, choices=LAYER_TYPES)
    if types is not None:
        return tuple(window if t == "sliding_attention" else None for t in types)
    first = fields.integer("max_window_layers", 28, minimum=0)
    return tuple(window if i >= first else None for i in range(layers))


class LlamaAttention(nn.Module):
    """Grouped-query attention; one matrix makes queries, keys and values."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        heads, keys, width = config.num_heads, config.num_kv_heads, config.head_dim
        self.heads = HeadSpec(heads, keys, width, config.norm_eps)
        self.spec = AttentionSpec(config.head_dim**-0.5, window=config.windows[layer])
        self.qkv = Linear(config.hidden_size, (heads + 2 * keys) * width, config.qkv_bias)
        self.out = Linear(heads * width, config.hidden_size, config.out_bias)
        self.q_norm = RMSNorm(width, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(width, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        norms = (self.q_norm, self.k_norm)
        q, k, v = ops.split_heads(
            self.qkv(x), self.heads, rope, *(None if n is None else n.weight for n in norms)
        )
        out: Tensor = self.out(attend(q, k, v, store, self.spec, record))
        return out


class LlamaMLP(GatedMLP):
    """The feed-forward half of a block."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config.hidden_size, config.mlp_size, config.activation, config.mlp_bias)


class LlamaBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = LlamaAttention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        x = x + self.attention(self.attention_norm(x), rope, store, record)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Llama(RotaryModel):
    """A decoder of the Llama family."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config, config.rope)
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(LlamaBlock(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight


def llama_weight_map(config: LlamaConfig) -> WeightMap:
    """Where the tensors of a Llama, Mistral or Qwen checkpoint go."""
    width = ("hidden_size",)
    vocabulary = ("vocab_size", "hidden_size")
    placements = {
        "model.embed_tokens.weight": Placement("embedding.weight", config_fields=vocabulary),
        "model.norm.weight": Placement("norm.weight", config_fields=width),
        "lm_head.weight": Placement("head.weight", config_fields=vocabulary),
    }
    for layer in range(config.num_layers):
        there, here = f"model.layers.{layer}", f"blocks.{layer}"
        placements |= {
            f"{there}.input_layernorm.weight": Placement(f"{here}.attention_norm.weight"),
            f"{there}.post_attention_layernorm.weight": Placement(f"{here}.mlp_norm.weight"),
        }
        placements |= attention_placements(config, f"{there}.self_attn", f"{here}.attention")
        placements |= mlp_placements(config, f"{there}.mlp", f"{here}.mlp")
    return WeightMap(
        placements,
        optional=frozenset({"lm_head.weight", "model.embed_tokens.weight"})
        if config.tied
        else frozenset(),
        ignored=(r"rotary_emb\.inv_freq$",),
        prefixes=("model.",),
    )


def attention_placements(config: LlamaConfig, there: str, here: str) -> dict[str, Placement]:
    """Where an attention's tensors, stored under `there`, go under `here`."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    rows = {
        "q_proj": (slice(0, q), ("num_attention_heads", "head_dim", "hidden_size")),
        "k_proj": (slice(q, q + kv), ("num_key_value_heads", "head_dim", "hidden_size")),
        "v_proj": (slice(q + kv, q + 2 * kv), ("num_key_value_heads", "head_dim", "hidden_size")),
    }
    kinds = ("weight", "bias") if config.qkv_bias else ("weight",)
    found = {
        f"{there}.{name}.{kind}": Placement(f"{here}.qkv.{kind}", part, config_fields=fields)
        for name, (part, fields) in rows.items()
        for kind in kinds
    }
    for kind in ("weight", "bias") if config.out_bias else ("weight",):
        found[f"{there}.o_proj.{kind}"] = Placement(
            f"{here}.out.{kind}", config_fields=("num_attention_heads", "head_dim", "hidden_size")
        )
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            found[f"{there}.{name}.weight"] = Placement(
                f"{here}.{name}.weight", config_fields=("head_dim",)
            )
    return found


def mlp_placements(config: LlamaConfig, there: str, here: str) -> dict[str, Placement]:
    """Where an MLP's tensors, stored under `there`, go under `here`."""
    size, fields = config.mlp_size, ("intermediate_size", "hidden_size")
    found = {}
    for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
        gate, up = slice(0, size), slice(size, 2 * size)
        for name, rows in (("gate_proj", gate), ("up_proj", up)):
            found[f"{there}.{name}.{kind}"] = Placement(
                f"{here}.gate_up.{kind}", rows, config_fields=fields
            )
        found[f"{there}.down_proj.{kind}"] = Placement(f"{here}.down.{kind}", config_fields=fields)
    return found
