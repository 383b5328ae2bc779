"""Feed-forward layers of many experts, of which each row goes to a few."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kept import ops
from kept.models.layers import GatedMLP, parameter
from kept.ops import Routing


@dataclass(frozen=True)
class ExpertsConfig:
    """A layer's experts, as config.json says. size: F of each. shared_size: of one that all rows go
    to, weighed by a gate; 0: there is none. biased: the router has a bias, and so has every
    expert."""

    num_experts: int
    size: int
    routing: Routing
    activation: str
    shared_size: int = 0
    biased: bool = False


class Router(nn.Module):
    """Scores of experts, (N, X), and behind them that of the shared one's gate where there is one.

    Its weights decide much and are few: they are kept as they are where others are quantized.
    """

    def __init__(self, width: int, config: ExpertsConfig) -> None:
        super().__init__()
        num_scores = config.num_experts + (config.shared_size > 0)
        self.weight = parameter(num_scores, width)
        self.bias = parameter(num_scores) if config.biased else None
        corrected = config.routing.scoring == "sigmoid"
        self.choice_bias = parameter(config.num_experts) if corrected else None


class Experts(nn.Module):
    """The weighed sum of what a row's experts make of it."""

    def __init__(self, width: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.router = Router(width, config)
        self.experts = nn.ModuleList(
            GatedMLP(width, config.size, config.activation, config.biased)
            for _ in range(config.num_experts)
        )
        size = config.shared_size
        self.shared = GatedMLP(width, size, config.activation, config.biased) if size else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, E) -> (N, E)."""
        config, shared = self.config, None if self.shared is None else self.shared(x)
        router = ops.Router(self.router.weight, self.router.bias, self.router.choice_bias)
        choices = [_weights(each) for each in self.experts]
        return ops.experts(x, router, choices, config.routing, config.activation, shared)


def _weights(expert: nn.Module) -> ops.Expert:
    assert isinstance(expert, GatedMLP)
    gate_up, down = expert.gate_up, expert.down
    return ops.Expert(gate_up.weight, down.weight, gate_up.bias, down.bias)
