"""A mixture of experts in plain torch: which of them a row goes to, and what they make of it.

Source: Shazeer et al. 2017, "Outrageously Large Neural Networks"; as Mixtral and Qwen write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kept.ops.reference import gated, linear


@dataclass(frozen=True, slots=True)
class Routing:
    """How a row chooses among experts.

    top_k: it goes to the K experts of the highest scores, of equal ones to the first. scoring:
    their weights are a softmax over the scores of all experts, or the sigmoid of each score.
    normalised: of the chosen alone, so that they add up to 1 (config `norm_topk_prob`). scale: what
    they are multiplied by behind that (`routed_scaling_factor`). num_groups, top_groups: experts
    lie in so many groups, of which the best are chosen from (`n_group`, `topk_group`), by the sum
    of the group_best highest scores in each. Source: DeepSeek-AI 2024, "DeepSeek-V2", section 2.2,
    and "DeepSeek-V3", section 2.1.2.
    """

    top_k: int
    normalised: bool
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    scale: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    group_best: int = 1


@dataclass(frozen=True, slots=True)
class Router:
    """What gives a row a score for each expert.

    weight: (X, E), or (X + 1, E) where a shared expert has a gate, whose score is the last. bias:
    as many. choice_bias: (X,) what the sigmoids of scores take on where experts are chosen, and
    only there.
    """

    weight: Tensor
    bias: Tensor | None = None
    choice_bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Expert:
    """down(act(gate(x)) * up(x)). gate_up: (2 F, E), the gates first. down: (E, F). Biases: (2 F,)
    and (E,)."""

    gate_up: Tensor
    down: Tensor
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


def choose(
    scores: Tensor, routing: Routing, choice_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The experts of each row in ascending order, (N, K) int64, and their weights (N, K) fp32.

    scores: (N, X). choice_bias: as of a `Router`.
    """
    wide = scores.float()
    best = _best(wide, routing, choice_bias)[:, : routing.top_k]
    chosen = best.sort(dim=-1).values
    weights = _weights(wide, chosen, routing)
    return chosen, weights if routing.scale == 1 else weights * routing.scale


def _weights(scores: Tensor, chosen: Tensor, routing: Routing) -> Tensor:
    if routing.scoring == "sigmoid":
        weights = scores.gather(1, chosen).sigmoid()
        return weights / (weights.sum(-1, keepdim=True) + 1e-20) if routing.normalised else weights
    if routing.normalised:
        return scores.gather(1, chosen).softmax(-1)
    return scores.softmax(-1).gather(1, chosen)


def _best(scores: Tensor, routing: Routing, choice_bias: Tensor | None) -> Tensor:
    """Experts (N, X), the best of the best groups first, and those of other groups last."""
    by = scores
    if routing.scoring == "sigmoid":
        by = scores.sigmoid() if choice_bias is None else scores.sigmoid() + choice_bias.float()
    order = _sorted(by)
    if routing.num_groups == 1:
        return order
    groups = by.unflatten(1, (routing.num_groups, -1))  # (N, groups, X / groups)
    of_group = groups.topk(routing.group_best, dim=-1).values.sum(-1)
    taken = torch.zeros_like(of_group).scatter(1, _sorted(of_group)[:, : routing.top_groups], 1.0)
    of_expert = taken.repeat_interleave(groups.shape[2], dim=1)
    return order.gather(1, _sorted(of_expert.gather(1, order)))


def _sorted(scores: Tensor) -> Tensor:
    """From the highest to the lowest, NaN before any number, of equal ones the first first."""
    return scores.sort(dim=-1, descending=True, stable=True).indices


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
    chosen, weights = choose(scores[:, : len(choices)], routing, router.choice_bias)
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
