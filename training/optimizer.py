"""Muon for the matrices inside the layers, AdamW for the rest.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) replaces each matrix's
momentum by the nearest orthogonal matrix before stepping. It reaches a loss in clearly fewer tokens
than AdamW, which is what counts when tokens are dear.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# What a layer adds must not drown the embedding it is added to, which is small because it is tied
# to the output: the matrices that write to the residual stream move more slowly.
OUTPUT_LR = 0.25


def orthogonalise(stack: Tensor) -> Tensor:
    """Matrices `(count, rows, columns)` with their singular values brought close to one."""
    a, b, c = NEWTON_SCHULZ
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for two-dimensional parameters.

    Parameters of one shape are treated as one stack. `step` mutates the parameters in place. The
    learning rate is that of a square matrix; tall ones move by sqrt(rows / columns) times more.
    """

    def __init__(
        self,
        parameters: list[dict[str, object]],
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Apply one update from the gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                update = orthogonalise(self._momentum(parameters, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, direction in zip(parameters, update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction, alpha=-scale)

    def _momentum(self, parameters: list[nn.Parameter], momentum: float) -> Tensor:
        """The Nesterov momentum of these parameters, stacked."""
        steps: list[Tensor] = []
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                raise RuntimeError("Muon.step needs a gradient for every parameter it was given")
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            steps.append(gradient.lerp(buffer, momentum))
        return torch.stack(steps)


def build_optimizers(
    model: nn.Module, muon_lr: float, adam_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon over the layers' matrices and AdamW over the embedding and the norms."""
    outputs, inputs, rest = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            outputs.append(parameter)
        elif name.endswith("proj.weight"):
            inputs.append(parameter)
        else:
            rest.append(parameter)
    groups: list[dict[str, object]] = [
        {"params": inputs},
        {"params": outputs, "lr": muon_lr * OUTPUT_LR},
    ]
    return [
        Muon(groups, lr=muon_lr, momentum=0.95, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0),
    ]
