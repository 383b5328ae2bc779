"""The Llama architecture for training, with Hugging Face's parameter names.

Linear layers that read the same input are multiplied in one go, which is faster on a CPU; they stay
separate parameters, so a checkpoint is a plain Llama checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ModelShape:
    """The numbers of the model, named as in `config.json`."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension (Zhang & Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(..., size)`; the statistics are fp32."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `(batch, heads, time, head)` by tables of `(time, head / 2)`."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with grouped key and value heads."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        queries = shape.num_attention_heads * shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend within `(batch, time, hidden)`."""
        shape, (batch, time, _) = self.shape, x.shape
        heads, groups = shape.num_attention_heads, shape.num_key_value_heads
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        packed = F.linear(x, weight).view(batch, time, heads + 2 * groups, shape.head_dim)
        q, k, v = packed.transpose(1, 2).split((heads, groups, groups), dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeats = heads // groups
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed_heads: Tensor = mixed.transpose(1, 2).reshape(batch, time, -1)
        return F.linear(mixed_heads, self.o_proj.weight)


class MLP(nn.Module):
    """The gated feed-forward layer, SwiGLU (Shazeer, 2020)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., hidden)` to itself."""
        weight = torch.cat((self.gate_proj.weight, self.up_proj.weight))
        gate, up = F.linear(x, weight).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down_proj.weight)


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add attention and feed-forward to `(batch, time, hidden)`."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        added: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + added


class Decoder(nn.Module):
    """The stack of layers, named `model` in the checkpoint."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Llama(nn.Module):
    """A Llama language model with tied embeddings, for training and scoring without a cache."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
        positions = torch.arange(shape.max_position_embeddings, dtype=torch.float64)
        angles = torch.outer(positions, shape.rope_theta**-half)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights; layers start as the identity because what they add starts at zero."""
        nn.init.normal_(self.model.embed_tokens.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif name.endswith("proj.weight"):
                nn.init.normal_(parameter, std=self.shape.hidden_size**-0.5)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Final hidden states `(batch, time, hidden)` of token ids `(batch, time)`."""
        time = input_ids.shape[1]
        cos, sin = self.cos[:time], self.sin[:time]
        x: Tensor = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        normed: Tensor = self.model.norm(x)
        return normed

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits `(batch, time, vocabulary)` of token ids `(batch, time)`."""
        return F.linear(self.hidden(input_ids), self.model.embed_tokens.weight)

    def loss(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats of targets `(batch, time)`."""
        logits = self(input_ids).flatten(0, 1).float()
        return F.cross_entropy(logits, targets.flatten())

    def num_parameters(self) -> int:
        """How many numbers are trained; the tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
