"""The text of Gemma 3n.

A row is several streams side by side (AltUp). Each layer predicts all of them, computes one anew,
and corrects the others by what is new in it. Beside attention runs a narrow layer (LAuReL), and
behind each layer stands what it takes of the token itself, as in Gemma 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import LayerStore
from kept.models.gemma3n_config import Gemma3nConfig
from kept.models.gemma4 import Gemma4, Gemma4Attention, Gemma4MLP, LayerInput, Seen
from kept.models.layers import Linear, WideRMSNorm, parameter
from kept.models.record import Record

_MIN_SQUARE = 1e-5  # a mean square below it counts as it, where streams are matched to the first
_ROOT_HALF = 2.0**-0.5


class Streams(nn.Module):
    """What a layer makes of the streams, by how one of them looks."""

    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__()
        count, width = config.num_streams, config.hidden_size
        self.index, self.width, self.eps = config.active, width, config.norm_eps
        self.norm = WideRMSNorm(width, config.norm_eps)
        self.router = parameter(count, width)
        self.prediction = parameter(count * count, count)
        self.correction = parameter(count, count)

    def active(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """The stream that layers read, times a weight (E,). x: (N, S * E) -> (N, E)."""
        return ops.columns(x, self.index * self.width, self.width, weight)

    def predict(self, x: Tensor) -> Tensor:
        """x: (N, S * E), consumed."""
        return ops.predict(x, self._routes(self.active(x)), self.prediction)

    def correct(self, x: Tensor, found: Tensor) -> Tensor:
        """By what became of the active stream. x: (N, S * E), consumed; found: (N, E)."""
        return ops.correct(x, self._routes(found), self.correction, found, self.index)

    def _routes(self, x: Tensor) -> Tensor:  # (N, E) -> (N, S)
        return ops.score(ops.rms_norm(x, self.norm.factor / self.width, self.eps), self.router)


class SideLayer(nn.Module):
    """A product of low rank beside attention (LAuReL), before its norm."""

    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__()
        self.left = Linear(config.hidden_size, config.rank, bias=False)
        self.right = Linear(config.rank, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        out: Tensor = self.right(self.left(x))
        return out


class SparseMLP(nn.Module):
    """down(act(gate(x), as far as it exceeds what few gates do) * up(x))."""

    def __init__(self, config: Gemma3nConfig, size: int, deviations: float) -> None:
        super().__init__()
        self.activation, self.deviations = config.activation, deviations
        self.gate = Linear(config.hidden_size, size, bias=False)
        self.up = Linear(config.hidden_size, size, bias=False)
        self.down = Linear(size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        gates, ups = self.gate(x), self.up(x)
        out: Tensor = self.down(ops.gated_sparsely(gates, ups, self.deviations, self.activation))
        return out


class Gemma3nBlock(nn.Module):
    """One layer over all streams."""

    def __init__(self, config: Gemma3nConfig, index: int) -> None:
        super().__init__()
        width, eps, layer = config.hidden_size, config.norm_eps, config.layers[index]
        self.streams = Streams(config)
        self.attention_norm = WideRMSNorm(width, eps)
        self.side, self.side_norm = SideLayer(config), WideRMSNorm(width, eps)
        self.attention = Gemma4Attention(config, layer)
        self.attention_post_norm = WideRMSNorm(width, eps)
        self.mlp_norm, self.mlp_post_norm = WideRMSNorm(width, eps), WideRMSNorm(width, eps)
        deviations = config.deviations[index]
        self.mlp: nn.Module = (
            Gemma4MLP(config, layer.mlp_size)
            if deviations is None
            else SparseMLP(config, layer.mlp_size, deviations)
        )
        self.layer_input = LayerInput(config, index * config.input_size)
        self.input_scale = parameter(width)
        self.scales_active = config.scales_active

    def forward(self, x: Tensor, seen: Seen, store: LayerStore, record: Record) -> Tensor:
        """x: (N, S * E) -> (N, S * E)."""
        ropes, inputs = seen
        assert inputs is not None
        x = self.streams.predict(x)
        active = self.streams.active(x)
        normed = self.attention_norm(active)
        side = self.side(normed)
        attended = self.attention(normed, ropes, store, record)
        # Normed anew: what is added is not rounded as what products read.
        found = active + self.attention_norm(active)
        found = found + self.side_norm(side)
        found = ops.scaled(found + self.attention_post_norm(attended), _ROOT_HALF)
        found = found + self.mlp_post_norm(self.mlp(self.mlp_norm(found)))
        x = self.streams.correct(x, found)
        scale = self.input_scale if self.scales_active else None
        return ops.add_behind(x, self.layer_input(self.streams.active(x, scale), inputs))


class Gemma3n(Gemma4):
    """The text model of a Gemma 3n."""

    config: Gemma3nConfig

    def __init__(self, config: Gemma3nConfig) -> None:
        super().__init__(config)
        width, beside = config.hidden_size, config.num_streams - 1
        self.spreads = nn.ModuleList(Linear(width, width, bias=False) for _ in range(beside))
        self.joins = nn.ModuleList(Linear(width, width, bias=False) for _ in range(beside))

    def _make_block(self, index: int) -> nn.Module:
        return Gemma3nBlock(self.config, index)

    def embed(self, batch: Batch) -> tuple[Tensor, Seen]:  # type: ignore[override]
        """Streams (N, S * E), and what `Gemma4.embed` brings beside vectors of tokens."""
        x, seen = super().embed(batch)
        return ops.spread(x, [spread(x) for spread in self.spreads], _MIN_SQUARE), seen

    def finish(self, x: Tensor) -> Tensor:
        """See `CausalLM.finish`: the mean of the streams, each seen through a matrix of its own."""
        width = self.config.hidden_size
        sides = [
            join(ops.columns(x, index * width, width)) for index, join in enumerate(self.joins, 1)
        ]
        return ops.joined(ops.columns(x, 0, width), sides, _MIN_SQUARE)
