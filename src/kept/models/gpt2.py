"""GPT-2: learned absolute positions, layer norms, one matrix for queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import KVShape, LayerStore
from kept.errors import CheckpointError
from kept.models.causal_lm import CausalLM
from kept.models.fields import MAX_LAYERS, Fields
from kept.models.layers import Embedding, LayerNorm, Linear, attend
from kept.models.record import Record
from kept.models.weight_map import Placement, WeightMap
from kept.ops import ACTIVATIONS, AttentionSpec, HeadSpec, Rope


@dataclass(frozen=True)
class GPT2Config:
    """What config.json says of a GPT-2; scales has one entry per layer."""

    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    context: int
    norm_eps: float
    activation: str
    tied: bool
    scales: tuple[float, ...]

    @property
    def head_dim(self) -> int:
        """D."""
        return self.hidden_size // self.num_heads

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token."""
        return (KVShape(self.num_heads, self.head_dim),) * self.num_layers


def read_gpt2_config(config: dict[str, Any]) -> GPT2Config:
    """Read config.json of model type gpt2."""
    fields = Fields(config)
    hidden, heads = fields.integer("n_embd", 768), fields.integer("n_head", 12)
    if hidden % heads:
        raise CheckpointError(
            f"config.json has n_embd = {hidden}, which n_head = {heads} does not divide"
        )
    fields.refuse("add_cross_attention", False, "its decoder expects an encoder kept lacks")
    layers = fields.integer("n_layer", 12, maximum=MAX_LAYERS)
    scale = (hidden // heads) ** -0.5 if fields.flag("scale_attn_weights", True) else 1.0
    by_layer = fields.flag("scale_attn_by_inverse_layer_idx", False)
    return GPT2Config(
        vocab_size=fields.integer("vocab_size", 50257),
        hidden_size=hidden,
        mlp_size=fields.integer("n_inner", 4 * hidden),
        num_layers=layers,
        num_heads=heads,
        context=fields.integer("n_positions", 1024),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        activation=fields.choice("activation_function", "gelu_new", ACTIVATIONS),
        tied=fields.flag("tie_word_embeddings", True),
        scales=tuple(scale / (i + 1) if by_layer else scale for i in range(layers)),
    )


class GPT2Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = HeadSpec(config.num_heads, config.num_heads, config.head_dim)
        self.activation = config.activation
        self.spec = AttentionSpec(config.scales[layer])
        self.attention_norm = LayerNorm(width, config.norm_eps)
        self.qkv = Linear(width, 3 * width, bias=True)
        self.out = Linear(width, width, bias=True)
        self.mlp_norm = LayerNorm(width, config.norm_eps)
        self.up = Linear(width, config.mlp_size, bias=True)
        self.down = Linear(config.mlp_size, width, bias=True)

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        q, k, v = ops.split_heads(self.qkv(self.attention_norm(x)), self.heads)
        x = x + self.out(attend(q, k, v, store, self.spec, record))
        up = ops.activate(self.up(self.mlp_norm(x)), self.activation)
        out: Tensor = x + self.down(up)
        return out


class GPT2(CausalLM):
    """A GPT-2 decoder."""

    is_rotary = False

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.positions = Embedding(config.context, config.hidden_size)
        self.blocks = nn.ModuleList(GPT2Block(config, i) for i in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight

    def embed(self, batch: Batch) -> tuple[Tensor, Rope]:
        """Token and position vectors, summed (N, E)."""
        return self.embedding(batch.tokens) + self.positions(batch.positions), None


def gpt2_weight_map(config: GPT2Config) -> WeightMap:
    """Where the tensors of a GPT-2 checkpoint go; its Conv1D weights are stored (in, out)."""
    width = ("n_embd",)
    placements = {
        "transformer.wte.weight": Placement(
            "embedding.weight", config_fields=("vocab_size", "n_embd")
        ),
        "transformer.wpe.weight": Placement(
            "positions.weight", config_fields=("n_positions", "n_embd")
        ),
        "transformer.ln_f.weight": Placement("norm.weight", config_fields=width),
        "transformer.ln_f.bias": Placement("norm.bias", config_fields=width),
        "lm_head.weight": Placement("head.weight", config_fields=("vocab_size", "n_embd")),
    }
    modules = {
        "ln_1": ("attention_norm", width),
        "attn.c_attn": ("qkv", width),
        "attn.c_proj": ("out", width),
        "ln_2": ("mlp_norm", width),
        "mlp.c_fc": ("up", ("n_embd", "n_inner")),
        "mlp.c_proj": ("down", ("n_inner", "n_embd")),
    }
    for layer in range(config.num_layers):
        for there, (here, fields) in modules.items():
            for kind in ("weight", "bias"):
                placements[f"transformer.h.{layer}.{there}.{kind}"] = Placement(
                    f"blocks.{layer}.{here}.{kind}",
                    transpose=kind == "weight" and "." in there,
                    config_fields=fields,
                )
    return WeightMap(
        placements,
        optional=frozenset({"lm_head.weight", "transformer.wte.weight"})
        if config.tied
        else frozenset(),
        ignored=(r"\.attn\.(masked_)?bias$",),
        prefixes=("transformer.",),
    )
