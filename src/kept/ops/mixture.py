"""A mixture of experts in plain torch: which of them a row goes to, and what they make of it.

Source: Shazeer et al. 2017, "Outrageously Large Neural Networks"; as Mixtral and Qwen write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.ops.reference import gated, linear


@dataclass(frozen=True, slots=True)
class Routing:
    """How a row chooses among experts.

    top_k: it goes to the K experts of the highest scores, of equal ones to the first. normalised:
    their weights are a softmax over the chosen scores alone, and so add up to 1 (config
    `norm_topk_prob`); else over the scores of all experts.
    """

    top_k: int
    normalised: bool


@dataclass(frozen=True, slots=True)
class Router:
    """What gives a row a score for each expert.

    weight: (X, E), or (X + 1, E) where a shared expert has a gate, whose score is the last. bias:
    as many.
    """

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Expert:
    """down(act(gate(x)) * up(x)). gate_up: (2 F, E), the gates first. down: (E, F). Biases: (2 F,)
    and (E,)."""

    gate_up: Tensor
    down: Tensor
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


def choose(scores: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """The experts of each row in ascending order, (N, K) int64, and their weights (N, K) fp32.

    scores: (N, X).
    """
    wide = scores.float()
    best = wide.sort(dim=-1, descending=True, stable=True).indices[:, : routing.top_k]
    chosen = best.sort(dim=-1).values
    if routing.normalised:
        return chosen, wide.gather(1, chosen).softmax(-1)
    return chosen, wide.softmax(-1).gather(1, chosen)


def experts(
    x: Tensor,
    router: Router,
    choices: Sequence[Expert],
    routing: Routing,
    activation: str,
    shared: Tensor | None = None,
) -> Tensor:
    """The weighed sum of what a row's experts make of it; see `ops`."""
    scores = linear(x, router.weight, router.bias)
    chosen, weights = choose(scores[:, : len(choices)], routing)
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for number in chosen.unique().tolist():  # ascending; the others are not read
        rows, place = (chosen == number).nonzero(as_tuple=True)
        made = _expert(x[rows], choices[number], activation).float()
        out = out.index_add(0, rows, made * weights[rows, place, None])
    if shared is not None:
        out = out + shared.float() * scores[:, len(choices) :].float().sigmoid()
    return out.to(x.dtype)


def _expert(x: Tensor, expert: Expert, activation: str) -> Tensor:
    inner = gated(linear(x, expert.gate_up, expert.gate_up_bias), activation)
    return linear(inner, expert.down, expert.down_bias)
