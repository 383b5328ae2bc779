"""DeepSeek V2 and V3 (V3.1, R1): latent attention, and experts in groups beside shared ones."""

from __future__ import annotations

from torch import Tensor, nn

from kept import ops
from kept.cache import LayerStore
from kept.models.deepseek_config import DeepseekConfig
from kept.models.experts import Experts
from kept.models.head_matrices import LatentMatrices
from kept.models.layers import Embedding, GatedMLP, Linear, RMSNorm, attend
from kept.models.record import Record
from kept.models.rotary_model import RotaryModel
from kept.ops import AttentionSpec, Rope

_GROUP = 32  # numbers of a head that the kernels multiply together


class DeepseekAttention(nn.Module):
    """All heads attend one latent a token; what would expand it stands beside queries and behind
    attention (`ops/latent.py`)."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        latent, bias, width = config.latent, config.attention_bias, config.hidden_size
        self.latent = latent
        self.spec = AttentionSpec(config.scale)
        self.query_dim = latent.plain + latent.turning
        rank, queries = config.query_rank, latent.num_heads * self.query_dim
        self.q_a = None if rank is None else Linear(width, rank, bias)
        self.q_norm = None if rank is None else RMSNorm(rank, latent.norm_eps)
        self.q = Linear(width if rank is None else rank, queries, bias=False)
        self.kv_a = Linear(width, latent.latent + latent.turning, bias)
        self.kv_norm = RMSNorm(latent.latent, latent.norm_eps)
        self.kv_b = LatentMatrices(latent, config.value_dim)
        self.out = Linear(latent.num_heads * config.value_dim, width, bias)

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        low = x if self.q_a is None or self.q_norm is None else self.q_norm(self.q_a(x))
        q = self.q(low)
        absorbed = ops.head_products(q, self.kv_b.keys, self.query_dim)
        q, k, v = ops.split_latent(
            absorbed, q, self.kv_a(x), self.kv_norm.weight, self.latent, rope
        )
        attended = attend(q, k, v, store, self.spec, record)
        made = ops.head_products(attended, self.kv_b.values, self.latent.latent)
        out: Tensor = self.out(made)
        return out


class DeepseekBlock(nn.Module):
    """x + attention(norm(x)), then x + experts(h) + shared(h) with h = norm(x), or x + mlp(h)."""

    def __init__(self, config: DeepseekConfig, layer: int) -> None:
        super().__init__()
        width, activation = config.hidden_size, config.activation
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.attention = DeepseekAttention(config)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp: nn.Module
        self.shared: nn.Module | None = None
        if layer in config.dense:
            self.mlp = GatedMLP(width, config.mlp_size, activation, bias=False)
            return
        self.mlp = Experts(width, config.experts)
        if config.shared_size:
            self.shared = GatedMLP(width, config.shared_size, activation, bias=False)

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        """x: (N, E) -> (N, E)."""
        x = x + self.attention(self.attention_norm(x), rope, store, record)
        normed = self.mlp_norm(x)
        x = x + self.mlp(normed)
        if self.shared is not None:
            x = x + self.shared(normed)
        return x


class Deepseek(RotaryModel):
    """A decoder of the DeepSeek family."""

    config: DeepseekConfig

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config, config.rope)
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(DeepseekBlock(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight

    @property
    def not_native(self) -> str | None:  # type: ignore[override]
        """See `CausalLM.not_native`."""
        latent = self.config.latent
        sizes = {
            "kv_lora_rank": latent.latent,
            "qk_nope_head_dim": latent.plain,
            "v_head_dim": self.config.value_dim,
        }
        for name, size in sizes.items():
            if size % _GROUP:
                return (
                    f"the native kernels take latent attention whose {name} is a multiple of "
                    f"{_GROUP}, and config.json has {size}"
                )
        return None
