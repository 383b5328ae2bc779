"""An evicting cache in a file: its rule as JSON, and what its layers note as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kept.cache.evicting import EvictionRule
from kept.cache.evicting_layer import EvictingLayer
from kept.cache.layout import lasting
from kept.cache.policy import SCORES, Attention, EvictionPolicy
from kept.errors import CacheError

ReadTensor = Callable[..., Tensor]  # name, dtype, and a size or None (any) for each dimension


def write_rule(rule: EvictionRule) -> dict[str, Any]:
    """A rule's numbers. Raises CacheError for a score of one's own, which a file cannot name."""
    score = rule.policy.scored_by
    if type(score) is not type(SCORES.get(score.name)):
        raise CacheError(
            f"the eviction score {score!r} is not one that a file can name, so that this cache "
            f"could not go on when it is loaded; there are {', '.join(SCORES)}"
        )
    return {
        "budget": rule.budget,
        "grain": rule.grain,
        "score": score.name,
        "decay": score.decay,
        "sinks": rule.policy.sinks,
        "recent": rule.policy.recent,
    }


def read_rule(fields: Mapping[str, Any]) -> EvictionRule:
    """The rule that `write_rule` wrote. Raises ValueError, TypeError or LookupError for no rule."""
    score = SCORES[fields["score"]]
    if isinstance(score, Attention):
        score = replace(score, decay=float(fields["decay"]))
    budget, grain = int(fields["budget"]), int(fields["grain"])
    if grain < 1:
        raise ValueError(grain)
    policy = EvictionPolicy(score, int(fields["sinks"]), int(fields["recent"]))
    return EvictionRule(budget, grain, policy.within(budget))


def notes_of(index: int, layer: EvictingLayer) -> dict[str, Tensor]:
    """What a layer notes, by its name in a file."""
    notes = {"held": layer.held, "attention": layer.attention, "queries": layer.queries}
    found = {_name(index, name): x for name, x in notes.items() if x is not None}
    return {name: x.cpu().clone() for name, x in found.items()}


def restore_notes(
    index: int,
    layer: EvictingLayer,
    names: Sequence[str],
    tensor: ReadTensor,
    lengths: Sequence[int],
) -> None:
    """Give a layer what `notes_of` found. names: of all tensors of the file.

    Raises CacheError for labels that no such layer can have.
    """
    slots, heads, budget = layer.held.shape
    device = layer.held.device
    held = tensor(_name(index, "held"), torch.int64, slots, heads, budget)
    for labels, length in zip(held, lengths, strict=True):
        last = layer.rule.last(length)
        rising = bool((labels.diff(dim=1) > 0).all())
        if last and not (rising and int(labels.min()) >= 0 and int(labels.max()) < last):
            raise CacheError(
                f"layer {index} of the file cannot hold tokens {labels.tolist()} of the first "
                f"{last}; make the cache anew"
            )
    with lasting():
        layer.held = held.to(device)
        if layer.attention is not None:
            name = _name(index, "attention")
            layer.attention = tensor(name, torch.float32, slots, heads, budget).to(device)
        name = _name(index, "queries")
        if layer.rule.observes and name in names:
            size = (slots, layer.rule.grain, None, layer.head_dim)
            layer.queries = tensor(name, torch.float32, *size).to(device)


def _name(index: int, note: str) -> str:
    return f"layers.{index}.{note}"
